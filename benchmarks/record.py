"""What every benchmark shares: interleaved timing, and a result file that says where and on what it was measured."""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch

from hf_condense.files import write_json
from hf_condense.memory import keep_freed_memory

RESULTS = Path(__file__).parent / "results"


def arguments(description: str, repeats: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, default=repeats, help="interleaved rounds of everything measured")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", default="cpu", help="cpu, cuda ...")
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


def write(name: str, command: str, device: torch.device, values: dict) -> None:
    """Writes benchmarks/results/<name>.json and says what it holds."""
    machine = {
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(), "python": platform.python_version(), "torch": torch.__version__,
    }  # fmt: skip
    about = {"command": command, "machine": machine, "commit": _commit(), "date": date.today().isoformat()}
    write_json(RESULTS / f"{name}.json", {**about, **values})
    print(f"written: benchmarks/results/{name}.json")


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
