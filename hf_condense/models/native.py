"""C functions of this package: compiled by the machine's own compiler when first used, in half a second, never shipped.

Not `torch.utils.cpp_extension`: torch's headers take half a minute to compile, and functions of plain pointers need none.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

log = logging.getLogger(__name__)
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")  # no -ffast-math, which changes how others compute


@lru_cache
def library(name: str) -> ctypes.CDLL | None:
    """The compiled `name`.c of this folder, or None where this machine cannot compile it; that is logged in one line.

    The compiler is $CC, or else cc. Compiled once a process: what was built for another processor is never loaded.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    why = "" if compiler and shutil.which(compiler[0]) else f"no C compiler {' '.join(compiler)!r}"
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / f"{name}.so"
        try:
            if not why:
                source = str(Path(__file__).with_name(f"{name}.c"))
                command = [*compiler, *FLAGS, source, "-o", str(built), "-lm"]
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
                return ctypes.CDLL(str(built))  # which stays loaded when the file is gone
        except subprocess.CalledProcessError as error:
            why = (error.stderr.strip().splitlines() or [str(error)])[-1]
        except (OSError, subprocess.TimeoutExpired) as error:
            why = str(error)
    log.info("%s is computed by torch, two to three times slower: %s", name, why)
    return None
