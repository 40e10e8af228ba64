"""What a person who waits is told, with a terminal and without."""

from __future__ import annotations

import io
import logging
import sys
import time
from types import SimpleNamespace

from hf_condense import progress
from hf_condense.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def said(caplog, screen: io.StringIO, monkeypatch, every: float, show: bool = True) -> tuple[list[str], str]:
    """The lines of the log and what the screen shows, after 3 of 12 units in 30 ms."""
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "SAY_EVERY", every)
    caplog.clear()
    with caplog.at_level(logging.INFO, "hf_condense"), Progress("students", 12, show) as bar:
        time.sleep(0.03)
        bar.advance(3)
    return [record.getMessage() for record in caplog.records], screen.getvalue()


def test_without_a_terminal_a_line_says_now_and_then_what_is_left(caplog, monkeypatch):
    lines, shown = said(caplog, io.StringIO(), monkeypatch, every=0.02)
    assert [line[:25] for line in lines] == ["students: 3 of 12, about "] and shown == ""
    assert said(caplog, io.StringIO(), monkeypatch, every=60.0)[0] == []
    assert said(caplog, io.StringIO(), monkeypatch, every=0.02, show=False)[0] == []


def test_a_terminal_gets_the_bar_and_no_lines(caplog, monkeypatch):
    lines, shown = said(caplog, Terminal(), monkeypatch, every=0.02)
    assert lines == [] and "students" in shown


def test_a_part_of_longer_work_shows_its_bar_only_where_it_takes_long(monkeypatch):
    for seconds, shown in ((60.0, False), (0.0, True)):
        screen = Terminal()
        monkeypatch.setattr(sys, "stderr", screen)
        monkeypatch.setattr(progress, "LONG", seconds)
        with Progress("student 1 of 2", 12, part=True) as bar:
            time.sleep(0.12)
            bar.advance(3)
        assert ("student 1 of 2" in screen.getvalue()) == shown
        assert not screen.getvalue().endswith("\n"), "nothing of it stays"


def test_the_time_left_goes_on_at_the_rate_so_far(caplog, monkeypatch):
    clock = iter([0.0, 100.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with caplog.at_level(logging.INFO, "hf_condense"), Progress("students", 12) as bar:
        bar.advance(3)
    assert caplog.messages == ["students: 3 of 12, about 05:00 left"]
