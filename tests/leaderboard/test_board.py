"""Boards: written and read, and one fingerprint for all that scores depend on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hf_condense.errors import ArtefactError, CondensationError
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.leaderboard.board import Bank, BoardProtocol
from hf_condense.leaderboard.board_file import read_board, write_board
from tests.leaderboard.example import example_board


@pytest.mark.parametrize("protocol", ["small", "edc-cifar10", "dc"])
def test_written_and_read_again(tmp_path, protocol: str):
    board = example_board(protocol=BoardProtocol.of(get_protocol(protocol)))
    write_board(tmp_path, board)
    again = read_board(tmp_path)
    assert again == replace(board, protocol=again.protocol)  # lists for the tuples of a protocol's values
    assert again.fingerprint == board.fingerprint
    assert again.protocol.protocol() == get_protocol(protocol)


def test_fingerprint_is_of_what_scores_depend_on():
    board = example_board()
    source = board.sources[0]
    for same in (
        replace(board, name="other"), replace(board, frozen=True), board.with_ceiling("digits", {}),
        replace(board, sources=(replace(source, id="lab/digits", revision="a" * 40),)),
    ):  # fmt: skip
        assert same.fingerprint == board.fingerprint
    for other in (
        replace(board, students=("convnet_w32",)), replace(board, bank=Bank(29)), replace(board, precision="bf16"),
        replace(board, protocol=BoardProtocol.of(get_protocol("small", steps=100))),
        replace(board, sources=(replace(source, test_fingerprint="0" * 16),)),
        replace(board, sources=(replace(source, teacher=replace(source.teacher, sha256="cd" * 32)),)),
    ):  # fmt: skip
        assert other.fingerprint != board.fingerprint


def test_tasks_and_ladder():
    board = example_board()
    assert len(board.tasks()) == 2 * 3 * 2
    assert board.tasks()[0].id == "digits-ipc1-hard"
    assert board.ladder(30) == [1, 2, 5, 10, 20]


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("format: 1", "format: 2", "format=2: expected 1"),
        ("name: digits-small", "name: ../up", "name"),
        ("alpha: 0.05", "alpha: 5", "alpha"),
        ("alpha: 0.05", "alpha: .nan", "alpha"),
        ("own_labels: true", "own_labels: 1", "own_labels"),
        ("frozen: false", "frozen: false\nfrozen: true", "each key once"),
        ("frozen: false", "surprise: 1", "surprise"),
        ("frozen: false", "frozen: !!python/object/apply:os.system ['true']", "YAML"),
        ("- 10\n", "- &a 10\n- *a\n", "anchors"),
        ("steps: 500", "steps: 501", "protocol.fingerprint"),
        ("flip: false", "flip: false\n  zip: 1", "zip"),
    ],
)
def test_a_changed_board_is_refused(tmp_path, old: str, new: str, said: str):
    path = write_board(tmp_path, example_board())
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(CondensationError, match=said.replace("(", r"\(")):
        read_board(tmp_path)


def test_no_board(tmp_path):
    with pytest.raises(ArtefactError, match="leaderboard init"):
        read_board(tmp_path)
