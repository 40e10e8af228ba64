"""Bytes of every label store in the shape of ImageNet-1K, and what reading labels costs beside a student's step.

    python -m benchmarks.label_bytes imagenet|reading|plot-digits|plot-fashion

`imagenet`: 10,000 images of 1,000 classes and made-up logits (normal, deviation 2.5, and 12 more on one class), 300 epochs,
views cut from 224 px. Accuracy and bytes on small images are `python -m benchmarks.study labels-digits` and `labels-fashion`;
`plot-...` draws what those have last measured.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
import torch

from benchmarks import record
from hf_condense.config import LabelSettings
from hf_condense.data.augmentation import ViewPolicy
from hf_condense.data.image_spec import ImageSpec
from hf_condense.data.randomness import Key
from hf_condense.files import read_json
from hf_condense.labels.columns import epoch_table, write_epochs
from hf_condense.labels.encodings import encoding_of
from hf_condense.labels.formats import kept_epochs, store_format
from hf_condense.labels.store import write_given
from hf_condense.labels.views import epoch_views
from hf_condense.models.loading import load_model

CPU = torch.device("cpu")
IMAGENET = {
    "full": LabelSettings(),
    "full, keyed views": LabelSettings(views="keyed"),
    "int8, keyed views": LabelSettings("int8", views="keyed"),
    "pruned 10x, keyed views": LabelSettings("pruned", keep_every=10, views="keyed"),
    "pruned 40x, keyed views": LabelSettings("pruned", keep_every=40, views="keyed"),
    "packed s=10 k=10": LabelSettings("packed", views_per_image=10, top_k=10),
    "packed s=30 k=10": LabelSettings("packed", views_per_image=30, top_k=10),
}
MOST = 2_500_000  # aim: bytes of s = k = 10
SHARE = 0.1  # aim: of a student's step


def imagenet(images: int, epochs: int = 300, classes: int = 1000, batch: int = 1024) -> dict:
    """Bytes of every format. Where a store has more epochs than are written, those that are have to stand for all."""
    policy, key, found = ViewPolicy(224, crop=(0.08, 1.0), mix="cutmix"), Key(0, "labels"), {}
    for row, settings in IMAGENET.items():
        form = store_format(settings, 20.0)
        kept, encoding = kept_epochs(form, key, epochs), encoding_of({**form, "dtype": "float16", "classes": classes})
        packed = form["store"] == "packed"
        written = kept if packed else kept[:2]

        def labelled(epoch: int):
            stream = torch.Generator().manual_seed((key / "logits" / epoch).seed() % 2**31)
            for rows, views in epoch_views(policy, key, epoch, images, 224, 224, batch):
                logits = 2.5 * torch.randn(len(rows), classes, generator=stream)
                logits[torch.arange(len(rows)), rows // (images // classes)] += 12
                yield rows, views, logits

        tables = (epoch_table(epoch, labelled(epoch), encoding, form["views"]) for epoch in written)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "views.parquet"
            if packed:
                tables = [pa.concat_tables(tables)]
            write_epochs(path, tables, encoding)
            size = path.stat().st_size
        found[row] = {"bytes": size * len(kept) // len(written), "epochs": len(kept), "written": len(written)}
    return {"bytes": found, "images": images, "classes": classes, "epochs": epochs, "batch": batch, "aim": MOST}


def reading(repeats: int, batch: int = 100, images: int = 1000) -> dict:
    """Seconds a batch for reading and decoding labels from the full store, beside a ResNet-18 student's step at 32 px."""
    found = {}
    for classes in (10, 1000):
        policy, key = ViewPolicy(32, crop=(0.5, 1.0), mix="cutmix"), Key(0, "labels")
        pixels = torch.zeros(images, 3, 32, 32, dtype=torch.uint8)

        def labelled(epoch: int, classes: int = classes):
            for rows, views in epoch_views(policy, key, epoch, images, 32, 32, batch):
                yield rows, views, torch.randn(len(rows), classes)

        folder = Path(tempfile.mkdtemp())
        about = {"members": [], "average": "logits", "bn": "running", "precision": "fp32"}
        store = write_given(folder, pixels, policy, 4, batch, classes, labelled, teacher=about)
        student = load_model(
            "resnet18",
            ImageSpec(num_classes=classes, image_size=32, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3),
            key=key,
        ).train()
        optimizer = torch.optim.AdamW(student.parameters())
        views, soft = torch.rand(batch, 3, 32, 32), torch.randn(batch, classes)

        def read(store=store):
            for epoch in range(store.epochs):
                for _, _, logits in store.batches(epoch):
                    logits.float()

        def step():
            (student(views) - soft).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        seconds = record.interleaved({"read": read, "step": step}, repeats, CPU)
        batches = store.epochs * images // batch
        each = {"read": seconds["read"]["processor"] / batches, "step": seconds["step"]["processor"]}
        found[f"{classes} classes"] = {**each, "share": each["read"] / each["step"]}
        shutil.rmtree(folder)
    return {"seconds_per_batch": found, "batch": batch, "aim": SHARE}


def plot(results: Path, name: str) -> None:
    """Accuracy against bytes, as the study of that name last measured them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = {row["row"]: row for row in read_json(results / f"study_labels-{name}_ipc10.json")["rows"]}
    figure, axes = pyplot.subplots(figsize=(7, 4.5))

    def draw(names: list[str], marker: str, label: str, of: str = "store_bytes", **line) -> None:
        points = [[100 * rows[n][what] if what != of else rows[n][of] for n in names] for what in (of, "mean", "std")]
        axes.errorbar(*points, marker=marker, capsize=2, lw=1, label=label, **line)

    packed = [row for row in rows if row.startswith("packed")]
    for k, marker in ((1, "o"), (3, "s"), (5, "^")):
        names = [row for row in packed if row.endswith(f"k={k}")]
        draw(names, marker, f"packed, {k} largest (s = 1, 3, 10, 30)")
    for row in [
        row for row in rows if row in ("full store", "int8") or row.startswith("pruned") or row.endswith("bits")
    ]:
        draw([row], "D", row, ls="")
    draw(["virtual"], "*", "virtual (teacher counted)", "label_bytes", ls="")
    online = 100 * rows["online"]["mean"]
    axes.axhline(online, color="grey", lw=1, label="online")
    axes.axhspan(online - 1, online, color="grey", alpha=0.15, lw=0)
    axes.set(xscale="log", xlabel="bytes of soft labels", ylabel="top-1 %", title=f"{name}, IPC 10, protocol small")
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(results / f"label_bytes_{name}.png", dpi=130)


def parser():
    found = record.parser(__doc__)
    found.add_argument("part", choices=("imagenet", "reading", "plot-digits", "plot-fashion"))
    found.add_argument("--images", type=int, default=10_000, help="of `imagenet`")
    return found


if __name__ == "__main__":
    options = record.options(parser())
    if options.part.startswith("plot"):
        plot(options.results, options.part.removeprefix("plot-"))
    else:
        facts = imagenet(options.images) if options.part == "imagenet" else reading(options.repeats)
        record.write(f"label_bytes_{options.part}", options, facts)
