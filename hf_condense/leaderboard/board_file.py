"""`board.yaml`, which a stranger may have written: strict YAML, within limits, and written so that it can be read."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from hf_condense.errors import ArtefactError
from hf_condense.files import write_text
from hf_condense.leaderboard.board import FILE, FORMAT, Board
from hf_condense.leaderboard.fields import clean
from hf_condense.leaderboard.limits import MAX_DEPTH, need, refuse
from hf_condense.leaderboard.schema import build

MAX_BYTES = 64_000


class _StrictLoader(yaml.SafeLoader):
    """Plain values only: no aliases, which can make a small file a huge one, and no key twice."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.events.AliasEvent):
            refuse(FILE, "an alias", "plain values without anchors and aliases")
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            need(isinstance(key, str) and keys.count(key) == 1, f"{FILE}: key", key, "each key once, as text")
        return super().construct_mapping(node, deep)


def read_board(folder: Path | str) -> Board:
    """The board of a folder with a `board.yaml`.

    Raises:
        ArtefactError: no such file, a board of another format, or anything in it that does not fit.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise ArtefactError(
            "leaderboard",
            str(folder),
            f"a folder or repository with a {FILE}",
            "make one with `hf-condense leaderboard init`, or check the name",
        )
    need(path.stat().st_size <= MAX_BYTES, f"{path}: size", path.stat().st_size, f"at most {MAX_BYTES} bytes")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        refuse(str(path), str(error).replace("\n", " "), "YAML", "fetch the board again")
    need(isinstance(values, dict), str(path), values, "a mapping")
    if values.get("format") != FORMAT:
        refuse(
            f"{path}: format", values.get("format"), str(FORMAT), "use the hf-condense that the board was made with"
        )
    clean(values, FILE, depth=MAX_DEPTH)
    board = build(Board, values, FILE)
    board.protocol.protocol()
    return board


def write_board(folder: Path | str, board: Board) -> Path:
    """Writes `board.yaml` into `folder` and gives its path."""
    path = Path(folder) / FILE
    values = asdict(board)
    text = yaml.safe_dump(_plain({"format": values.pop("format"), **values}), sort_keys=False, allow_unicode=True)
    write_text(path, text)
    return path


def _plain(value: Any) -> Any:
    """Lists for tuples: YAML has no tuples."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
