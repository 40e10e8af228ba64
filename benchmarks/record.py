"""What every benchmark shares: interleaved timing, and a result file that says where and on what it was measured."""

from __future__ import annotations

import argparse
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import torch

from hf_condense.files import write_json
from hf_condense.memory import keep_freed_memory

PLACES = ("--folder", "--results", "--name")
RESULTS = Path(__file__).parent / "results"


def parser(description: str, repeats: int = 5) -> argparse.ArgumentParser:
    """What every script takes."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--repeats", type=int, default=repeats, help="interleaved rounds of everything that is timed")
    found.add_argument("--threads", type=int, default=1, help="CPU threads")
    found.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu, cuda ...")
    found.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    found.add_argument("--name", help="of the result file")
    return found


def options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line, read; sets threads, and keeps freed memory as runs of the library do."""
    found = parser.parse_args()
    torch.set_num_threads(found.threads)
    keep_freed_memory()
    return found


def interleaved(
    work: dict[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Seconds of each piece of work, in rounds over all of them, so that a busy moment hits every row alike.

    Returns median and smallest wall time, and the median of processor time: on a machine that others use too, the last
    says best what the work itself costs.
    """
    wall: dict[str, list[float]] = {name: [] for name in work}
    processor: dict[str, list[float]] = {name: [] for name in work}
    for call in work.values():
        call()  # warm-up
    for _ in range(repeats):
        for name, call in work.items():
            _wait(device)
            begin, cpu = time.perf_counter(), time.process_time()
            call()
            _wait(device)
            wall[name].append(time.perf_counter() - begin)
            processor[name].append(time.process_time() - cpu)
    return {
        name: {
            "median": round(statistics.median(wall[name]), 5),
            "fastest": round(min(wall[name]), 5),
            "processor": round(statistics.median(processor[name]), 5),
        }
        for name in work
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def write(name: str, options: argparse.Namespace, values: dict, show: bool = True) -> None:
    """Writes <name>.json with command, machine, commit and date into the folder of results, and prints the values."""
    for line in _lines(values) if show else ():
        print(line)
    device, module = options.device, sys.modules["__main__"].__spec__.name
    machine = {
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(), "python": platform.python_version(), "torch": torch.__version__,
    }  # fmt: skip
    command = shlex.join(["python", "-m", module, *_asked(sys.argv[1:])])
    about = {"command": command, "machine": machine, "commit": _commit(), "date": date.today().isoformat()}
    path = options.results / f"{options.name or name}.json"
    write_json(path, {**about, **values})
    print(f"written: {path}")


def _asked(arguments: list[str]) -> Iterator[str]:
    """What changes the values: not the places on this machine that they were kept in."""
    places = False
    for argument in arguments:
        places = argument.split("=")[0] in PLACES or (places and not argument.startswith("--"))
        if not places:
            yield argument


def _lines(values: object, name: str = "") -> Iterator[str]:
    """A line for each value of nested dicts."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _lines(value, f"{name}, {key}" if name else str(key))
    else:
        yield f"{name}: {values:.4g}" if isinstance(values, float) else f"{name}: {values}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    folder = Path(__file__).parent
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else None
