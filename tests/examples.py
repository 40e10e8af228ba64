"""Examples of Markdown pages as code: Python blocks, commands, and what they take for granted (a network, arguments)."""

import re
import shlex
from pathlib import Path
from typing import Any

import timm
import torch
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of each fenced block of a page, in their order."""
    return _FENCE.findall(text)


def python_examples(text: str) -> list[str]:
    """The Python blocks of a page."""
    return [content for language, content in blocks(text) if language == "python"]


def commands(block: str) -> list[list[str]]:
    """The arguments of each `hf-condense` command of a block, without comments; `&&` separates commands too."""
    lines = re.sub(r"\\\n", " ", block).splitlines()
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [shlex.split(part, comments=True)[1:] for part in parts if part.startswith("hf-condense ")]


def given(block: str, folder: Path, classes: int, channels: int, side: int) -> dict[str, Any]:
    """The names that a block uses and a reader has: `model` of the library that it speaks of, `args` and `torch`."""
    if "Trainer(model" in block:
        config = ViTConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=side,
            patch_size=side // 2, num_channels=channels, num_labels=classes,
        )  # fmt: skip
        model = ViTForImageClassification(config)
    else:
        model = timm.create_model("resnet10t", num_classes=classes, in_chans=channels)
    args = TrainingArguments(
        str(folder),
        max_steps=2,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    return {"model": model, "args": args, "torch": torch}
