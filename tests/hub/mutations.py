"""Every field of a JSON file dropped, null, of another type, negative, huge, not a number, nested; and what a reader does.

`python -m tests.hub.mutations RUN_FOLDER [EXPERT_FOLDER]` prints the counts for the files of a finished run.
"""

from __future__ import annotations

import copy
import json
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from hf_condense.errors import CondensationError

PATIENCE = 4  # seconds after which a reader counts as one that never ends


def paths(value: Any, at: tuple = ()) -> Iterator[tuple]:
    """The place of every field; of a list, of its first and last part."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield (*at, name)
            yield from paths(part, (*at, name))
    elif isinstance(value, list):
        for place in sorted({0, len(value) - 1} if value else ()):
            yield (*at, place)
            yield from paths(value[place], (*at, place))


def changes(value: Any) -> dict[str, Any]:
    """What a field may be replaced by."""
    deep: Any = 0
    for _ in range(60):
        deep = [deep]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    found = {"null": None, "type": [7] if isinstance(value, str) else "seven", "nested": {"a": deep}}
    if number or value is None:
        found |= {"negative": -3, "huge": 10**18, "nan": float("nan")}
    if isinstance(value, str):
        found |= {"long": value + "x" * 200_000, "other": value + "x"}
    if isinstance(value, bool):
        found["other"] = not value
    if number:
        found["other"] = value + 1
    return {name: new for name, new in found.items() if new is not value}


def mutations(value: Any) -> Iterator[tuple[str, Any]]:
    """(what was done, the changed copy) for every field of plain data."""
    for path in paths(value):
        *above, last = path
        holder = value
        for part in above:
            holder = holder[part]
        options = dict(changes(holder[last]))
        if isinstance(holder, dict):
            options["dropped"] = None
            options["added"] = None
        for name, new in options.items():
            changed = copy.deepcopy(value)
            place = changed
            for part in above:
                place = place[part]
            if name == "dropped":
                del place[last]
            elif name == "added":
                place[f"{last}_more"] = place[last]
            else:
                place[last] = new
            yield f"{'.'.join(map(str, path))} {name}", changed


def verdicts(
    file: Path, read: Callable[[], Any], sealed: Callable[[Any], Any] = lambda value: value, every: int = 1
) -> Iterator[tuple[str, str, str]]:
    """(mutation, refused | same | other | traceback | endless, words) of a reader that gives a comparable result.

    Args:
        sealed: makes a changed record as a stranger would write it: with its right checksum.
        every: only every so many of the mutations.
    """
    before, expected = file.read_bytes(), read()
    try:
        for name, changed in islice(mutations(json.loads(before)), 0, None, every):
            file.write_text(json.dumps(sealed(changed)))
            yield name, *_tried(read, expected)
    finally:
        file.write_bytes(before)


def _tried(read: Callable[[], Any], expected: Any) -> tuple[str, str]:
    try:
        with limited():
            found = read()
    except CondensationError as error:
        return "refused", str(error)
    except TimeoutError:
        return "endless", ""
    except Exception as error:  # what the test is about: nothing else may come out
        return "traceback", f"{type(error).__name__}: {error}"[:200]
    return ("same", "") if found == expected else ("other", "")


@contextmanager
def limited() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)


def use_set(folder: Path) -> tuple:
    """What somebody gets out of a distilled dataset: what they load, batches, a trained network, what a push would send."""
    from hf_condense.hub.distilled import DistilledDataset
    from hf_condense.hub.inspection import inspect_folder, report
    from hf_condense.hub.push import push
    from hf_condense.reproduction import recipe

    data = DistilledDataset.load(folder)
    seen = [data.images.sum().item(), data.labels.tolist(), tuple(data.class_names)]
    for regime in ("hard", "stored"):
        for batch in data.training_batches(regime, 1):
            seen += [batch.images.sum().item(), None if batch.soft is None else batch.soft.sum().item()]
    seen.append(data.train("convnet_d1", "stored").sha256())
    facts = inspect_folder(folder)
    report(facts)
    repr(data)
    push(folder, "ada/set", dry_run=True)
    recipe(data.content, {})
    return (*seen, facts["holds"])


def use_pool(folder: Path) -> tuple:
    """What the networks of a pool say of an image."""
    import torch

    from hf_condense.models.members import ModelPool

    pool = ModelPool.load(folder)
    image = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)
    pool.table()
    return tuple((m.model(image).tolist(), m.model.num_classes, m.model.class_names) for m in pool)


def use_experts(folder: Path) -> tuple:
    """Snapshots of experts."""
    from hf_condense.models.expert_buffer import ExpertBuffer

    buffer = ExpertBuffer.open(folder, verify=True)
    last = buffer.snapshot(buffer.experts - 1, buffer.epochs)
    return buffer.experts, buffer.epochs, buffer.table, last.sum().item()


def main(run: Path, experts: Path | None) -> None:
    import torch

    torch.set_num_threads(1)
    pool = run / "pool" / "models"
    member = next(p for p in pool.iterdir() if p.is_dir())
    files = {
        "condensation.json": (run / "dataset" / "condensation.json", lambda: use_set(run / "dataset")),
        "store manifest": (run / "dataset" / "soft_labels" / "manifest.json", lambda: use_set(run / "dataset")),
        "image_model.json": (member / "image_model.json", lambda: use_pool(pool)),
        "member.json": (member / "member.json", lambda: use_pool(pool)),
        "pool manifest": (pool / "manifest.json", lambda: use_pool(pool)),
    }
    if experts:
        files["expert manifest"] = (experts / "manifest.json", lambda: use_experts(experts))
    for name, (file, read) in files.items():
        counts, told = Counter(), {}
        for what, verdict, words in verdicts(file, read):
            counts[verdict] += 1
            told.setdefault(verdict, []).append(f"{what}: {words}")
        print(f"{name}: {sum(counts.values())} mutants, {dict(counts)}", flush=True)
        for verdict in ("traceback", "other", "endless"):
            for line in told.get(verdict, [])[:400]:
                print(f"    {verdict:<10} {line}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
