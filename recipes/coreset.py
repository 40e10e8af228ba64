"""Coresets of any image dataset: accelerate launch recipes/coreset.py --method herding --dataset cifar10 --ipc 10"""

import sys

from hf_condense.cli import recipe

SHORT = {"el2n": "el2n_easy"}


def as_selection(arguments: list[str]) -> list[str]:
    """Here `--method` names the selection: `--method herding` is `--selection herding` of method `coreset`."""
    parts = [p for a in arguments for p in (a.split("=", 1) if a.startswith("--method=") else [a])]
    flags = ["--selection" if p == "--method" else p for p in parts]
    return [SHORT.get(p, p) if before == "--selection" else p for before, p in zip(["", *flags], flags)]


if __name__ == "__main__":
    sys.argv[1:] = as_selection(sys.argv[1:])
    recipe("coreset")
