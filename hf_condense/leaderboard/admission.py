"""What a board takes: the source, sets, seeds and earlier results that a submission is held against before any work."""

from __future__ import annotations

from collections.abc import Sequence

from hf_condense.config import check, nearest
from hf_condense.data.names import canonical_name
from hf_condense.errors import ConfigError
from hf_condense.hub.distilled import locate
from hf_condense.hub.record import read_record
from hf_condense.leaderboard.board import Board
from hf_condense.leaderboard.place import Place
from hf_condense.leaderboard.result import Result
from hf_condense.leaderboard.sets import CondensedSet


def source_of(name: str, board: Board) -> str:
    """The board's source that a set was made from, by its record."""
    if len(board.sources) == 1:
        return board.sources[0].name
    made_from = canonical_name(read_record(locate(name))["content"]["source"]["id"])
    found = [s.name for s in board.sources if canonical_name(s.id) == made_from]
    known = [s.name for s in board.sources]
    check(
        len(found) == 1,
        "source",
        made_from,
        f"one of {', '.join(known)}",
        f"give --source; {nearest(made_from, known)}",
    )
    return found[0]


def check_sets(sets: Sequence[CondensedSet], place: Place) -> None:
    board, first = place.board, sets[0]
    ipcs = sorted({s.ipc for s in sets})
    check(len(ipcs) == 1, "ipc", ipcs, "sets of one IPC", "submit each IPC by itself")
    check(
        first.ipc in board.ipc,
        "ipc",
        first.ipc,
        f"an IPC of the board: {', '.join(map(str, board.ipc))}",
        "condense with another --ipc",
    )
    names = sorted({s.method_name for s in sets})
    check(len(names) == 1, "sets", names, "sets of one method", "submit each method by itself")
    hashes = [s.pixels_hash for s in sets]
    check(len(set(hashes)) == len(hashes), "sets", "the same images twice", "sets from different synthesis seeds")
    stored = [r for r in board.regimes if r == "stored" and board.protocol.fields.get("label_per") != "image"]
    check(
        not stored or all(s.data.stages is None for s in sets),
        "sets",
        "made in stages",
        "sets that were made at once: the board stores labels of whole sets, and students train in the stages of a set",
        "submit it to a board whose regimes are hard and online",
    )
    check(
        place.repo is None or all(s.repo is not None for s in sets),
        "sets",
        "a folder on this machine",
        "Hub ids, which everybody can read",
        "`hf-condense push RUN_FOLDER owner/name`, then submit owner/name",
    )
    for found in sets:
        licence = found.data.content["source"].get("license")
        check(licence not in board.licences.deny, "licence", licence, "a licence that the board takes")


def seed_count(sets: Sequence[CondensedSet], board: Board, asked: int | None) -> int:
    least = board.seeds.min
    if len(sets) > 1:
        check(asked in (None, len(sets)), "seeds", asked, f"{len(sets)}: one student a set", "leave --seeds out")
        check(len(sets) >= least, "sets", len(sets), f"one, or {least} and more of one method")
        most, count, name = board.bank.draws, len(sets), "sets"
    else:
        count, most, name = asked or board.seeds.recommended, board.bank.draws, "seeds"
    check(least <= count <= most, name, count, f"{least} to {most}")
    return count


def bank_of(place: Place, source: str, ipc: int) -> Result:
    """The random draws of a task."""
    for result in place.entries(Result):
        c = result.content
        if (c.kind, c.method.name, c.source, c.ipc) == ("baseline", "random", source, ipc):
            return result
    raise ConfigError(
        "leaderboard",
        place.board.name,
        f"a board with random draws of {source} at {ipc} images a class",
        "ask the board's maintainers to run `hf-condense leaderboard bank` first",
    )


def already(
    place: Place, sets: Sequence[CondensedSet], source: str, count: int, by: str, supersedes: str | None
) -> Result | None:
    """The result that a repeated call has already submitted.

    Raises:
        ConfigError: these sets were submitted before, or `supersedes` is not an earlier result of the same author with
            at most as many seeds.
    """
    mine = sorted(s.pixels_hash for s in sets)
    earlier = [
        r
        for r in place.entries(Result)
        if r.content.kind == "submission"
        and r.content.source == source
        and sorted(s.pixels_hash for s in r.content.sets) == mine
    ]
    same = [r for r in earlier if len(r.content.columns[0].seeds) == count and r.submitted.by == by]
    if same:
        return same[-1]
    if supersedes is not None:
        old = place.result(supersedes)
        check(old.submitted.by == by, "supersedes", supersedes, f"a result of {by}")
        n = len(old.content.columns[0].seeds)
        check(n <= count, "seeds", count, f"{n} or more, as the result that is superseded has")
    elif earlier:
        id = earlier[0].id
        raise ConfigError(
            "sets",
            f"already there as {id}",
            "sets that the board does not have",
            f"verify it instead: hf-condense verify {id}; for more seeds of your own give --supersedes {id}",
        )
    return None
