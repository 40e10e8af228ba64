"""Examples of Markdown pages as code, and what they take for granted: a network, and a Trainer's arguments."""

import re
from pathlib import Path
from typing import Any

import timm
import torch
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification


def python_examples(text: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", text, re.S)


def given(block: str, folder: Path, classes: int, channels: int, side: int) -> dict[str, Any]:
    """The names that a block uses and a reader has: `model` of the library that it speaks of, `args` and `torch`."""
    if "from transformers" in block:
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
