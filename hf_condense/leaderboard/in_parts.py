"""Plain Python over thousands of results, shared among forked processes: each begins with all that is in memory."""

from __future__ import annotations

import pickle
import sys
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TypeVar

from hf_condense.data.decoding import worker_count

LEAST = 500  # items of a part: fewer are done before a process has begun
T = TypeVar("T")
R = TypeVar("R")


def in_parts(work: Callable[[Sequence[T]], R], items: Sequence[T], least: int = LEAST) -> list[R]:
    """What `work` returns for each of some consecutive parts of `items`, in their order.

    The first part is done in this process, the others in forked copies of it, on Linux, where a fork is safe for work that
    starts no threads and uses no torch. A part whose process sends no answer is done here, and its error is raised here.
    """
    count = max(1, min(worker_count(), len(items) // least)) if sys.platform == "linux" else 1
    ends = [len(items) * i // count for i in range(count + 1)]
    own, *others = [items[start:end] for start, end in pairwise(ends)]
    sent = [(part, *_begin(work, part)) for part in others]
    found = [work(own)]
    for part, process, answer in sent:
        try:
            found.append(pickle.loads(answer.recv_bytes()))  # of this program, not of a stranger
        except EOFError:
            found.append(work(part))
        process.join()
    return found


def _begin(work: Callable[[Sequence[T]], R], part: Sequence[T]) -> tuple[BaseProcess, Connection]:
    """A new process for a part, and where its answer comes from; closed without one if it fails."""
    fork = get_context("fork")
    answer, end = fork.Pipe(duplex=False)
    with warnings.catch_warnings():  # that other threads exist: none holds a lock that `work` takes
        warnings.simplefilter("ignore", DeprecationWarning)
        process = fork.Process(target=_answer, args=(work, part, end), daemon=True)
        process.start()
    end.close()  # that of the process is then the only one
    return process, answer


def _answer(work: Callable[[Sequence[T]], R], part: Sequence[T], end: Connection) -> None:
    try:
        answer = pickle.dumps(work(part))
    except Exception:
        return  # the part is done again where its error can be raised
    end.send_bytes(answer)
