"""CCFS over any method: accelerate launch recipes/ccfs.py --base_method cda --dataset cifar100 --ipc 50"""

from hf_condense.cli import recipe

if __name__ == "__main__":
    recipe("ccfs")
