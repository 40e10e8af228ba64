"""LGM on any image dataset: accelerate launch recipes/lgm.py --dataset imagenet-1k --ipc 1 --backbone NAME"""

from hf_condense.cli import recipe

if __name__ == "__main__":
    recipe("lgm")
