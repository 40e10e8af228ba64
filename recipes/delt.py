"""DELT on any image dataset: accelerate launch recipes/delt.py --dataset imagenet-1k --ipc 10"""

from hf_condense.cli import recipe

if __name__ == "__main__":
    recipe("delt")
