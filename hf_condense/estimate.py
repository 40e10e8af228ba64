"""What a run will cost, measured on a few images before the work starts."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from hf_condense.data.randomness import Key
from hf_condense.labels.columns import expected_bytes
from hf_condense.labels.encodings import encoding_of
from hf_condense.labels.formats import kept_epochs
from hf_condense.memory import peak_bytes
from hf_condense.models.loading import ImageModel, load_model
from hf_condense.run_stages import label_settings

if TYPE_CHECKING:
    from hf_condense.trainer import CondensationTrainer

log = logging.getLogger(__name__)
PROBE = 16  # images; enough for a rate, small enough for any memory


@dataclass(frozen=True)
class Cost:
    """Of one network: seconds an image for a forward pass, and for forward and backward; bytes of its activations."""

    forward: float
    backward: float
    activations: int
    weights: int


def measure(model: ImageModel, shape: tuple[int, int, int], device: torch.device) -> Cost:
    """Times `model` on a few made-up images of `shape` (channels, height, width)."""
    model = model.to(device).freeze()
    images = torch.rand(PROBE, *shape, device=device)
    sizes: list[int] = []

    def note(module: nn.Module, _, output) -> None:
        if isinstance(output, torch.Tensor):
            sizes.append(output.numel() * output.element_size())

    hooks = [m.register_forward_hook(note) for m in model.modules() if not list(m.children())]
    model(images)
    for hook in hooks:
        hook.remove()

    def seconds(gradient: bool) -> float:
        x = images.clone().requires_grad_(gradient)
        started = time.perf_counter()
        with torch.set_grad_enabled(gradient):
            logits = model(x)
            if gradient:
                logits.sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    seconds(True)
    forward, backward = min(seconds(False) for _ in range(2)), min(seconds(True) for _ in range(2))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return Cost(forward / PROBE, backward / PROBE, sum(sizes) // PROBE, weights)


def estimate(trainer: CondensationTrainer) -> dict[str, float]:
    """Seconds a stage, and bytes: {"squeeze": s, ..., "memory": bytes, "disk": bytes}. Every figure is a rough one."""
    c, train = trainer.config, trainer.train
    shape = (train.channels, train.image_size, train.image_size)

    def cost(name: str) -> Cost:
        model = load_model(
            name, num_classes=train.num_classes, image_size=train.image_size, channels=train.channels,
            mean=train.mean, std=train.std, pretrained=False, key=Key(0),
        )  # fmt: skip
        return measure(model, shape, trainer.device)

    names = set(c.squeeze.base_model) | set(c.evaluation.students)
    costs = {name: cost(name) for name in sorted(names)}
    base, weak = c.squeeze.base_model, c.weak
    if weak.weak:  # weak models cost about as much as their base, which made them
        observers = [costs[base[0]]] * len(c.squeeze.observers or range(weak.pool_size))
        sizes = {"base": 1, "pool": weak.pool_size, "both": 1 + weak.pool_size}
        teachers = [costs[base[0]]] * len(c.squeeze.teachers or range(sizes[weak.label_source]))
    else:
        observers = [costs[n] for n in c.squeeze.observers or base]
        teachers = [costs[n] for n in c.squeeze.teachers or base]
    tuned = weak.pool_size * weak.finetune_epochs if weak.pool_kind == "post" and not weak.pool_folder else 0
    training = 0.0 if weak.pool_folder or not trainer.needs_pool else sum(costs[n].backward * 1.5 for n in base)
    labels = sum(t.forward for t in teachers)
    images = train.num_classes * c.run.ipc
    recipe = trainer.method.recipe(train.num_classes, c.run.ipc, train.image_size)
    steps = recipe.steps if recipe else 0
    shard = min(getattr(c.method, "shard_size", None) or images, images)
    rows = 1 + sum(b in c.evaluation.baselines for b in ("random", "initial"))
    share = trainer.accelerator.num_processes
    found = {
        "squeeze": len(train) * (c.squeeze.squeeze_epochs + tuned) * training,
        "statistics": len(train) * sum(o.forward for o in observers) if trainer.method.info.pool and steps else 0.0,
        "synthesis": trainer.method.images_per_step(train.num_classes, c.run.ipc)
        * steps
        * sum(o.backward for o in observers)
        / len(observers)
        / share,
    }
    if before := trainer.method.images_before(len(train)):
        found["preparation"] = before * 1.5 * costs[base[0]].backward / share
    store = label_settings(trainer)
    virtual, kept = store["store"] == "virtual", 0
    if store["store"] != "none" and not virtual:
        kept = len(kept_epochs(store, Key(0), store["epochs"]))
        found["labels"] = rows * images * kept * labels / share
    evaluation = 0.0
    for student in c.evaluation.students:
        protocol = trainer.protocol.resolve(student, c.run.ipc)
        epochs, limit = protocol.duration(images)
        seen = epochs * (min(limit * protocol.batch_size(images), images) if limit else images)
        once = seen * costs[student].backward * 1.5
        online = seen * labels * (("online" in c.evaluation.regimes) + virtual)
        full = once if "full" in c.evaluation.baselines else 0.0
        evaluation += c.evaluation.student_seeds * (rows * (once * len(c.evaluation.regimes) + online) + full)
    found["evaluation"] = evaluation / share
    trained = min(c.squeeze.squeeze_batch, len(train)) if c.squeeze.squeeze_epochs else 0
    activations = max(o.activations for o in observers) * 2 * max(shard if steps else 0, trained)
    found["memory"] = peak_bytes(trainer.device) + activations + sum(4 * o.weights for o in costs.values())
    found["disk"] = 0.0
    whole = (
        c.squeeze.squeeze_epochs or "full" in c.evaluation.baselines
    )  # else training images are decoded as they pass
    for source in [trainer.splits.test] + [train] * bool(whole):
        raw = len(source) * source.channels * source.stored_size**2
        found["memory" if raw <= c.data.decode_gb * 1e9 else "disk"] += raw
    if kept:
        encoding = encoding_of({**store, "dtype": "float16", "classes": train.num_classes})
        found["disk"] += rows * expected_bytes(
            kept, images, train.num_classes, store["batch"], store["policy"]["mix"] != "none", encoding,
            views=store["views"],
        )  # fmt: skip
    return found


def announce(trainer: CondensationTrainer) -> None:
    """Prints the estimate for the stages; says that it is one."""
    if not trainer.accelerator.is_main_process:
        return
    found = estimate(trainer)
    memory, disk = found.pop("memory"), found.pop("disk")
    parts = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in found.items() if seconds)
    log.info("estimate on this machine (from %d images a network; done stages are skipped): %s", PROBE, parts)
    log.info(
        "  together about %s; memory about %.2f GB, disk about %.2f GB",
        duration(sum(found.values())), memory / 1e9, disk / 1e9,
    )  # fmt: skip


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
