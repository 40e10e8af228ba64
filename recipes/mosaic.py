"""Mosaic on any image dataset: accelerate launch recipes/mosaic.py --dataset cifar10 --ipc 10"""

from hf_condense.cli import recipe

if __name__ == "__main__":
    recipe("mosaic")
