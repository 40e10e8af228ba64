"""SRe2L on any image dataset: accelerate launch recipes/sre2l.py --dataset imagenet-1k --ipc 50"""

from hf_condense.cli import recipe

if __name__ == "__main__":
    recipe("sre2l")
