"""The folder of a Space: plain pages that are whole without JavaScript, and the board as data."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from hf_condense.files import atomic_path
from hf_condense.leaderboard.collect import Collected, collect
from hf_condense.leaderboard.drawing import share_bar
from hf_condense.leaderboard.export import as_csv, as_json, as_parquet, board_table
from hf_condense.leaderboard.figures import FILTERS, duration_range, size_range
from hf_condense.leaderboard.in_parts import in_parts
from hf_condense.leaderboard.overview import Group, overview
from hf_condense.leaderboard.pictures import Pictures
from hf_condense.leaderboard.place import NO_COMMIT, TABLE, Place, open_place
from hf_condense.leaderboard.result import Result
from hf_condense.leaderboard.result_view import result_view
from hf_condense.leaderboard.rows import Row
from hf_condense.leaderboard.statistics import ABOVE, BELOW, SAME
from hf_condense.leaderboard.terms import TERMS
from hf_condense.leaderboard.views import page_name, page_title, plots_tab, submitter, tabs_of, task_tab
from hf_condense.progress import Progress

VERDICTS = (ABOVE, SAME, BELOW)
ROWS_SHOWN = 200  # of a table, before a reader asks for all; also in site.js
GROUPS_SHOWN = 300  # of the overview
RESULTS_A_PAGE = 1000
STATIC = ("site.css", "site.js", "icon.svg")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """What a build made: the folder, its pages, and what it was made of."""

    folder: Path
    pages: int
    collected: Collected


def build(place: Place, output_dir: Path | str, pictures: bool = True) -> Built:
    """Writes the site of a board; a folder that is there is replaced when all of it is done.

    The same results give the same bytes. Into a board's own folder also goes `table/board.parquet`.

    Args:
        pictures: show previews of sets; those of the Hub are fetched.

    Raises:
        ArtefactError: the board cannot be read, or `output_dir` cannot be written to.
    """
    collected = collect(place)
    for entry in collected.refused:
        log.warning("left out %s: %s", entry.path, entry.reason)
    table = board_table(collected)
    parquet = as_parquet(table)
    with atomic_path(output_dir) as folder:
        site = Site(collected, folder)
        pages = site.write(Pictures(place) if pictures else None)
        about = {
            "board": place.board.name,
            "fingerprint": place.board.fingerprint,
            "commit": site.commit,
            "digest": f"sha256:{collected.digest}",
        }
        for name, data in (("json", as_json(table, about)), ("csv", as_csv(table)), ("parquet", parquet)):
            (folder / f"board.{name}").write_bytes(data)
    if place.repo is None:
        with atomic_path(place.folder / TABLE) as temporary:
            temporary.write_bytes(parquet)
    return Built(Path(output_dir), pages, collected)


def build_site(leaderboard: str | Path, output_dir: Path | str, pictures: bool = True) -> Path:
    """`build` of a board's folder or repository; returns the folder of the site."""
    return build(open_place(leaderboard), output_dir, pictures).folder


class Site:
    """Renders the pages of a collected board into a folder."""

    def __init__(self, collected: Collected, folder: Path) -> None:
        self.collected, self.board, self.folder = collected, collected.board, folder
        place = collected.place
        self.commit = None if place.commit == NO_COMMIT else place.commit
        self.templates = Environment(
            loader=PackageLoader("hf_condense.leaderboard", "pages"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self.templates.filters.update(FILTERS)
        self.templates.globals.update(
            board=self.board,
            digest=collected.digest,
            source=self._source(),
            leaderboard=place.repo or "BOARD",
            VERDICTS=VERDICTS,
            TERMS=TERMS,
            ROWS_SHOWN=ROWS_SHOWN,
        )

    def _source(self) -> str:
        place = self.collected.place
        return "a folder" if self.commit is None else f"{place.repo} at commit {self.commit}"

    def write(self, pictures: Pictures | None) -> int:
        """All pages and static files; returns how many pages."""
        self.folder.mkdir()
        for name in STATIC:
            (self.folder / name).write_bytes(
                (resources.files("hf_condense.leaderboard") / "pages" / name).read_bytes()
            )
        self._index()
        for source, ipc in self.task_pages:
            self._task(source, ipc)
        self._results()
        results = list(self.collected.results.values())
        shown = {} if pictures is None else {r.id: self._picture(r, pictures) for r in results}
        in_parts(lambda part: self._methods(part, shown), results)
        self._page("submit.jinja", "submit.html")
        self._page("about.jinja", "about.html", results=len(self.collected.results), refused=self.collected.refused)
        (self.folder / "README.md").write_text(self.templates.get_template("space.jinja").render(), encoding="utf-8")
        return sum(1 for _ in self.folder.rglob("*.html"))

    @cached_property
    def task_pages(self) -> list[tuple[str, int]]:
        """(source, IPC) with results, in the order of the board."""
        there = {(task.source, task.ipc) for task in self.collected.rows}
        return [(s.name, ipc) for s in self.board.sources for ipc in self.board.ipc if (s.name, ipc) in there]

    def _page(self, template: str, address: str, **values: Any) -> None:
        path = self.folder / address
        path.parent.mkdir(exist_ok=True)
        root = "../" * address.count("/")
        text = self.templates.get_template(template).render(root=root, here=address, **values)
        path.write_text(text, encoding="utf-8")

    def _index(self) -> None:
        collected, groups = self.collected, overview(self.collected)
        rows = [row for page in self.task_pages for _, rows in tabs_of(collected, *page) for row in rows]
        tally = collected.verdicts(rows)
        tasks = {
            (r.result.content.source, r.result.content.ipc, r.column.regime, r.column.student)
            for r in rows
            if r.result.content.kind == "submission"
        }
        self._page(
            "index.jinja",
            "index.html",
            tally=tally,
            total=sum(tally.values()),
            submissions=len(collected.submissions),
            tasks=len(tasks),
            share=share_bar(*(tally[v] for v in VERDICTS)),
            matrix=self._matrix(),
            groups=[self._group(g) for g in groups[:GROUPS_SHOWN]],
            hidden=len(groups[GROUPS_SHOWN:]),
        )

    def _matrix(self) -> list[dict[str, Any]]:
        lines = []
        for source, ipc in self.task_pages:
            by_regime: dict[str, list[Row]] = {regime: [] for regime in self.board.regimes}
            for task, rows in tabs_of(self.collected, source, ipc):
                by_regime.get(task.regime, []).extend(rows)
            cells = [self.collected.verdicts(rows) for rows in by_regime.values()]
            lines.append({"source": source, "ipc": ipc, "page": page_name(source, ipc), "cells": cells})
        return lines

    def _group(self, group: Group) -> dict[str, Any]:
        levels = Counter(self.collected.standings[r.id].level.split(" ")[0] for r in group.results)
        return {
            **vars(group),
            "is_random": group.is_random,
            "size": size_range(*group.bytes),
            "duration": duration_range(*group.seconds),
            "level": ""
            if group.kind == "baseline"
            else ", ".join(f"{n} {name}" for name, n in sorted(levels.items())),
        }

    def _task(self, source: str, ipc: int) -> None:
        tabs, name = tabs_of(self.collected, source, ipc), page_name(source, ipc)
        values = {"task_title": page_title(source, ipc), "page": name, "tested": tabs[0][1][0].column.tested}
        views = [task_tab(self.collected, task, rows) for task, rows in tabs]
        self._page("task.jinja", f"tasks/{name}.html", tabs=views, **values)
        plots = [plots_tab(self.collected, task, rows) for task, rows in tabs]
        self._page("plots.jinja", f"plots/{name}.html", tabs=plots, **values)

    def _results(self) -> None:
        """Lists of all results, newest first."""
        order = sorted(self.collected.results.values(), key=lambda r: (r.submitted.date, r.id), reverse=True)
        parts: Sequence[list[Result]] = [order[i : i + RESULTS_A_PAGE] for i in range(0, len(order), RESULTS_A_PAGE)]
        for i, part in enumerate(parts or [[]]):
            address = f"methods/{'index' if i == 0 else f'page-{i + 1}'}.html"
            lines = [self._listed(result) for result in part]
            self._page("results.jinja", address, lines=lines, number=i + 1, pages=len(parts))

    def _listed(self, result: Result) -> dict[str, Any]:
        content, standing = result.content, self.collected.standings[result.id]
        found = Counter(row.judged.verdict for row in self.collected.by_result[result.id] if row.judged)
        baseline = content.kind == "baseline"
        return {
            "id": result.id,
            "title": content.method.title,
            "by": submitter(result),
            "gone": standing.gone,
            "classes": "gone" if standing.gone else "",
            "source": content.source,
            "ipc": content.ipc,
            "found": found,
            "above": found[ABOVE],
            "level": standing.level,
            "date": "" if baseline else result.submitted.date,
        }

    def _picture(self, result: Result, pictures: Pictures) -> dict[str, Any] | None:
        """Writes the preview of a result's first set; None where there is none to show."""
        if result.content.kind != "submission" or self.collected.standings[result.id].hidden:
            return None
        found = pictures.of(result.content.sets[0])
        if found is None:
            return None
        path = self.folder / "pictures" / f"{result.id}.{found.suffix}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(found.data)
        return {"address": f"../pictures/{path.name}", "width": found.width, "height": found.height}

    def _methods(self, results: Sequence[Result], shown: Mapping[str, dict[str, Any] | None]) -> None:
        """The page of each result, with its picture. The bar is that of this process, which others work beside."""
        with Progress("pages of results", len(results), show=parent_process() is None) as progress:
            for result in results:
                view = result_view(self.collected, result)
                self._page("method.jinja", f"methods/{result.id}.html", picture=shown.get(result.id), **view)
                progress.advance()
