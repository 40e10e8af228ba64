"""A board of the embedded digits with a bank, made once with students of a few steps; sets to submit to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hf_condense.config import DataSettings
from hf_condense.data.randomness import Key
from hf_condense.data.source import Splits, open_source
from hf_condense.hub.artefact import Artefact, write_artefact
from hf_condense.hub.provenance import gather_content, gather_record, training_block
from hf_condense.leaderboard.bank import fill_bank
from hf_condense.leaderboard.keep import BoardSettings, init_board
from hf_condense.leaderboard.place import Place, open_place
from hf_condense.methods import method_info

SETTINGS = BoardSettings(
    sources=("digits",), ipc=(1, 2), steps=3, teacher_epochs=2, seeds_min=3, seeds=3, draws=4, ladder=(1, 2, 5),
    ladder_draws=2,
)  # fmt: skip


@pytest.fixture(scope="session")
def digits() -> Splits:
    return open_source(DataSettings(dataset="digits"), Key(0, "data"))


@pytest.fixture(scope="session")
def made_board(tmp_path_factory) -> tuple[Path, Path]:
    """(board with its bank, its work folder); not to be changed."""
    folder = tmp_path_factory.mktemp("board")
    board, work = folder / "board", folder / "work"
    init_board(board, "tiny", SETTINGS)
    fill_bank(board, by="keeper", work=work)
    return board, work


@pytest.fixture
def board(made_board, tmp_path) -> Path:
    """A copy of the board."""
    return Path(shutil.copytree(made_board[0], tmp_path / "board"))


@pytest.fixture
def work(made_board) -> Path:
    return made_board[1]


@pytest.fixture
def place(board) -> Place:
    return open_place(board)


def write_set(
    folder: Path, splits: Splits, seed: int, *, ipc: int = 2, method: str = "dm", source: dict | None = None,
    data: dict | None = None, permuted: float = 0.0, soft: bool = False, stages: int = 1, floats: bool = False,
) -> Path:  # fmt: skip
    """A folder of a distilled dataset: real images of the source that `seed` chooses.

    Args:
        permuted: share of the images that get the label of another class.
        source: changes of the recorded source; data: settings by which it was read.
        floats: publish float images too, as methods do whose images leave [0, 1].
        stages: in which the images were made, as PDD does; those of a class one after the other.
    """
    train, draw = splits.train, Key(5, "set", seed)
    labels = torch.arange(10).repeat_interleave(ipc)
    rows = [int(r) for c in range(10) for r in train.rows_of(c)[(draw / c).permutation(100)[:ipc]]]
    moved = labels.clone()
    chosen = torch.from_numpy((draw / "moved").permutation(len(labels))[: round(permuted * len(labels))].copy())
    moved[chosen] = labels[chosen.roll(1)]
    from dataclasses import replace

    content = gather_content(
        method=method_info(method), config={"run": {"ipc": ipc, "seed": seed}, "method": {"steps": 5}, **({"data": data} if data else {})},
        source=replace(splits.info, **(source or {})), models=[], regimes=["hard"],
        training=training_block("small", None, 10, 2),
    )  # fmt: skip
    spent = {"squeeze": {"seconds": 3.0, "peak_bytes": 10**6}, "condense": {"seconds": 2.5, "peak_bytes": 10**7}}
    labelled = {}
    if soft:
        probabilities = torch.nn.functional.one_hot(moved, 10).float() * 0.9 + 0.01
        labelled = {
            "soft_labels": probabilities.half(),
            "soft_label_kind": {"kind": "probabilities", "temperature": 1.0, "ensemble": "logits"},
        }
    artefact = Artefact(
        train.images(rows),
        moved,
        list(train.class_names),
        content,
        gather_record(spent, torch.device("cpu")),
        float_images=train.images(rows).float() / 255 if floats else None,
        stages=torch.arange(ipc).repeat(10) % stages + 1 if stages > 1 else None,
        **labelled,
    )
    write_artefact(folder, artefact)
    return folder


@pytest.fixture
def make_set(tmp_path, digits) -> Callable[..., Path]:
    """`make_set(seed, ...)`: a set of the digits; see `write_set`."""

    def make(seed: int, **how) -> Path:
        name = "-".join(str(v) for v in (seed, *how.values()) if not isinstance(v, dict))
        return write_set(tmp_path / f"set-{name}", digits, seed, **how)

    return make
