"""Work that is shared among processes gives what one process gives, and its errors."""

import os
import signal

import pytest

from hf_condense.leaderboard import in_parts as module
from hf_condense.leaderboard.in_parts import in_parts


@pytest.fixture(autouse=True)
def three_cores(monkeypatch):
    monkeypatch.setattr(module, "worker_count", lambda: 3)


def test_parts_come_in_order_from_several_processes():
    found = in_parts(lambda part: (os.getpid(), list(part)), range(10), least=3)
    assert [value for _, part in found for value in part] == list(range(10))
    assert len({process for process, _ in found}) == 3 and found[0][0] == os.getpid()


def test_few_items_stay_in_this_process():
    assert in_parts(lambda part: (os.getpid(), len(part)), range(5), least=3) == [(os.getpid(), 5)]
    assert in_parts(list, []) == [[]]


def test_an_error_of_another_process_is_raised_here():
    def work(part):
        if 8 in part:
            raise ValueError("eight")
        return len(part)

    with pytest.raises(ValueError, match="eight"):
        in_parts(work, range(9), least=3)


def test_the_part_of_a_process_that_was_killed_is_done_here():
    me = os.getpid()

    def work(part):
        if os.getpid() != me:
            os.kill(os.getpid(), signal.SIGKILL)
        return list(part)

    assert in_parts(work, range(6), least=2) == [[0, 1], [2, 3], [4, 5]]
