"""Starts a board: opens its sources, trains their teachers, and writes board.yaml, card and the Hub's eval.yaml."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml
from huggingface_hub import HfApi

from hf_condense.config import DataSettings, SqueezeSettings, check
from hf_condense.data.cache import cache_folder
from hf_condense.data.names import KNOWN, canonical_name
from hf_condense.data.source import SOURCE_KEY, open_source
from hf_condense.evaluation.protocols import get_protocol
from hf_condense.files import atomic_path, write_text
from hf_condense.hub.commits import commit
from hf_condense.hub.refusals import clear_hub_errors
from hf_condense.leaderboard.board import FILE, Bank, Board, BoardProtocol, BoardSource, Seeds, Teacher
from hf_condense.leaderboard.board_file import read_board, write_board
from hf_condense.leaderboard.scoring import KEY
from hf_condense.models.checkpoints import read_checkpoint, write_checkpoint
from hf_condense.models.pool import PoolTraining, squeeze

FRAMEWORK = "hf-condense"
TEACHERS = "teachers"


@dataclass(frozen=True)
class BoardSettings:
    """What the maintainer of a board decides.

    Args:
        sources: short names, Hub ids or folders.
        protocol: name of a protocol; `steps` changes its length.
        teacher_model, teacher_epochs: of the network that makes all soft labels, trained here.
        max_per_class: training images of a class that are used; None for all.
    """

    sources: tuple[str, ...]
    ipc: tuple[int, ...] = (1, 10)
    students: tuple[str, ...] = ("convnet_w32",)
    regimes: tuple[str, ...] = ("hard", "stored", "online")
    protocol: str = "small"
    steps: int | None = None
    teacher_model: str = "convnet_w32"
    teacher_epochs: int = 20
    max_per_class: int | None = None
    seeds_min: int = 5
    seeds: int = 10
    draws: int = 30
    ladder: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200)
    ladder_draws: int = 10
    deny_licences: tuple[str, ...] = ()

    def bank(self) -> Bank:
        return Bank(self.draws, self.ladder, self.ladder_draws)


def init_board(folder: Path | str, name: str, settings: BoardSettings) -> Board:
    """Makes the folder of a new board. The same call resumes; one that is there keeps its fingerprint.

    Raises:
        ConfigError: the folder holds another board, or settings contradict each other.
        DataError, ModelError: a source or network cannot be used.
    """
    folder = Path(folder)
    protocol = get_protocol(settings.protocol, **({"steps": settings.steps} if settings.steps else {}))
    for regime in settings.regimes:
        protocol.check_regime(regime)
    for student in settings.students:
        for ipc in settings.ipc:
            protocol.resolve(student, ipc)
    sources = tuple(_source(folder, source, settings) for source in settings.sources)
    board = Board(
        name=name,
        protocol=BoardProtocol.of(protocol),
        sources=sources,
        ipc=settings.ipc,
        students=settings.students,
        regimes=settings.regimes,
        seeds=Seeds(settings.seeds_min, settings.seeds),
        bank=settings.bank(),
    )
    board = replace(board, licences=replace(board.licences, deny=settings.deny_licences))
    if (folder / FILE).exists():
        there = read_board(folder)
        check(
            there.fingerprint == board.fingerprint,
            "board",
            f"{folder} holds {there.name} ({there.fingerprint})",
            f"the same settings, or another folder: these make another board ({board.fingerprint})",
        )
        return there
    write_text(folder / "README.md", _card(board))
    write_text(folder / "eval.yaml", _evaluation(board))
    write_board(folder, board)  # last: it says that the board is there
    return board


def _source(folder: Path, id: str, settings: BoardSettings) -> BoardSource:
    known = KNOWN.get(canonical_name(id))
    splits = open_source(DataSettings(dataset=id, max_per_class=settings.max_per_class), SOURCE_KEY)
    train, test = splits.train, splits.test
    flip = known.flip if known else True
    name = Path(id).name
    teacher = None
    if set(settings.regimes) != {"hard"}:
        place = folder / TEACHERS / name
        if not place.exists():
            asked = SqueezeSettings(base_model=(settings.teacher_model,), squeeze_epochs=settings.teacher_epochs)
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            training = PoolTraining(
                asked, train, test, train.image_size, KEY / "teacher", device, cache_folder(), flip
            )
            with atomic_path(place) as temporary:
                write_checkpoint(squeeze(training).members[0].model, temporary, train.image_size)
        teacher = _teacher(place, splits)
    return BoardSource(
        name=name,
        id=id,
        revision=splits.info.revision,
        fingerprint=train.fingerprint,
        test_fingerprint=test.fingerprint,
        image_size=train.image_size,
        channels=train.channels,
        max_per_class=settings.max_per_class,
        flip=flip,
        teacher=teacher,
    )


def _teacher(place: Path, splits) -> Teacher:
    from hf_condense.models.training import evaluate_top1

    model = read_checkpoint(place)
    top1 = evaluate_top1(model, splits.test.decoded(), splits.test.labels, torch.device("cpu"))
    return Teacher(None, None, model.sha256(), round(top1, 6))


def evaluation_tasks(board: Board) -> list[str]:
    """Task ids of the Hub's evaluation entries: `<source>-ipc<k>-<regime>`."""
    return list(dict.fromkeys(task.id for task in board.tasks()))


def _evaluation(board: Board) -> str:
    """The Hub reads this from a dataset repository; the framework's name has to be on the Hub's own list."""
    tasks = [{"id": task} for task in evaluation_tasks(board)]
    return yaml.safe_dump({"name": board.name, "evaluation_framework": FRAMEWORK, "tasks": tasks}, sort_keys=False)


def _card(board: Board) -> str:
    facts = {
        "pretty_name": board.name,
        "tags": ["dataset-distillation", "dataset-condensation", "leaderboard"],
        "configs": [{"config_name": "board", "data_files": "table/board.parquet"}],
    }
    head = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)
    sources = ", ".join(f"{s.name} ({s.id})" for s in board.sources)
    return (
        f'---\n{head}---\n\n# {board.name}\n\nResults of a leaderboard of condensed datasets, on which "no different from '
        f'random real images" is a result.\n\nSources: {sources}. Images a class: {", ".join(map(str, board.ipc))}. '
        f"Students: {', '.join(board.students)}. Label regimes: {', '.join(board.regimes)}. Protocol: "
        f"{board.protocol.name}. Fingerprint: `{board.fingerprint}`.\n\nSubmit with `hf-condense submit REPO "
        "--leaderboard THIS_REPOSITORY`; every result is a file that is named by its content.\n"
    )


def push_board(folder: Path | str, repo_id: str) -> str:
    """Publishes the folder of a board as a dataset repository; gives its address. Safe to repeat.

    Raises:
        HubError: the Hub refuses, or cannot be reached.
    """
    folder = Path(folder)
    read_board(folder)
    kept = ("results", "predictions", "verified", "withdrawn", "table", TEACHERS)
    paths = [p for name in kept for p in sorted((folder / name).rglob("*")) if p.is_file()]
    paths += [folder / name for name in (FILE, "README.md", "eval.yaml")]
    files = {p.relative_to(folder).as_posix(): p for p in paths}
    with clear_hub_errors(repo_id):
        api = HfApi()
        api.create_repo(repo_id, repo_type="dataset", exist_ok=True)
        done = commit(api, repo_id, "dataset", files, f"Board {folder.resolve().name}")
    return done.url or f"{repo_id} at {done.revision}, unchanged"
