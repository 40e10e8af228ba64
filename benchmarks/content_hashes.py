"""Content hashes of a tiny run of every registered method and label store: the same before and after a change of the code.

    python -m benchmarks.content_hashes record hashes.json
    python -m benchmarks.content_hashes compare hashes.json

Hashes hold on one machine and one set of library versions; a method whose VERSION was raised on purpose may differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

STORES = ("full", "int8", "pruned", "packed", "virtual")


def cases() -> dict[str, tuple[str, dict]]:
    """Name -> method and settings: every method, and every label store under one of them."""
    from hf_condense.methods import list_methods
    from tests.test_resume import OWN, TINY

    found = {method: (method, {**TINY, **OWN.get(method, {})}) for method in list_methods()}
    found |= {f"edc-{store}": ("edc", {**TINY, **OWN["edc"], "store": store}) for store in STORES}
    return found | {"edc-ipc1-seed1": ("edc", {**TINY, **OWN["edc"], "ipc": 1, "seed": 1})}


def parts(folder: Path) -> dict[str, str]:
    """Hashes of what a run has published: its recorded content hash, and the bytes of each array a student reads."""
    from hf_condense import DistilledDataset

    data = DistilledDataset.load(folder)
    # since format 2 the content hash covers the training block too; that of the pixels is the one of format 1
    found = {"pixels_hash": data.content.get("pixels_hash", data.content["content_hash"])}
    for name in ("images", "labels", "soft_labels", "float_images"):
        tensor = getattr(data, name)
        if tensor is not None:
            found[name] = hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:16]
    return found


def record() -> dict[str, dict[str, str]]:
    """Runs every case in a folder and a cache of its own."""
    from hf_condense import CondensationTrainer

    found = {}
    with tempfile.TemporaryDirectory() as root:
        os.environ["HF_CONDENSE_CACHE"] = f"{root}/cache"
        for name, (method, settings) in cases().items():
            folder = CondensationTrainer(method, output_dir=f"{root}/{name}", **settings).run()
            found[name] = parts(folder)
            print(name, found[name]["pixels_hash"], flush=True)
    return found


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("what", choices=("record", "compare"))
    found.add_argument("path", type=Path, help="JSON file of the hashes")
    return found


def main() -> int:
    options = parser().parse_args()
    path, found = options.path, record()
    if options.what == "record":
        path.write_text(json.dumps(found, indent=1))
        return 0
    before = json.loads(path.read_text())
    differing = {
        name: [part for part in before.get(name, {}) if before[name][part] != found.get(name, {}).get(part)]
        for name in before
    }
    differing = {name: names for name, names in differing.items() if names}
    print(f"{len(before) - len(differing)} of {len(before)} cases are equal", *differing.items(), sep="\n")
    return bool(differing)


if __name__ == "__main__":
    sys.exit(main())
