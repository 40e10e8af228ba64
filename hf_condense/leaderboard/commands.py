"""The commands of leaderboards: submit, verify, and `leaderboard` with its actions. Imports nothing heavy until one runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

COMMANDS = ("submit", "verify", "leaderboard")
BOARD_HELP = "folder of a board, or its dataset repository on the Hub"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def add_commands(commands: Any) -> None:
    """Adds the parsers to the subparsers of the command line."""
    put = commands.add_parser(
        "submit",
        help="score condensed sets under a leaderboard and submit the result",
        allow_abbrev=False,
        description="Several sets of one method from different seeds are judged as the method, one as this set.",
        epilog="The same command again resumes. A repository gets a pull request, a folder the result at once.",
    )
    put.add_argument("names", nargs="+", metavar="REPO", help="Hub ids, run folders or folders of distilled datasets")
    put.add_argument("--leaderboard", required=True, help=BOARD_HELP)
    put.add_argument("--revision", help="branch, tag or commit of the sets")
    put.add_argument("--source", help="source of the board; found by the sets' record where not given")
    put.add_argument("--seeds", type=int, help="student seeds of one set; the board's recommended number by default")
    put.add_argument("--own_labels", action="store_true", help="add the column under the published labels")
    put.add_argument(
        "--tuned_on",
        choices=("held-out", "test", "unknown"),
        default="unknown",
        help="images that settings were chosen on",
    )
    put.add_argument("--tuning_trials", type=int, help="how many settings were tried")
    put.add_argument(
        "--push_students", action="store_true", help="publish the median student of each column, with its result"
    )
    put.add_argument("--supersedes", metavar="ID", help="an earlier result of yours that this one replaces")
    _common(put)
    again = commands.add_parser(
        "verify",
        help="score a result's sets again with seeds that cannot be chosen",
        allow_abbrev=False,
        description="Exit code 1 says that the verification disagrees.",
    )
    again.add_argument("id", help="of the result")
    again.add_argument("--leaderboard", required=True, help=BOARD_HELP)
    again.add_argument("--seeds", type=int, default=5, help="students a column (default 5)")
    again.add_argument("--remake", action="store_true", help="run the recorded recipe again too")
    _common(again)
    board = commands.add_parser("leaderboard", help="keep a board: init, bank, check, build, serve, push, withdraw")
    actions = board.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_init(actions)
    bank = actions.add_parser("bank", help="make the random draws and other baselines that the board lacks")
    bank.add_argument("leaderboard", help=BOARD_HELP)
    _common(bank)
    check = actions.add_parser(
        "check", help="check a result file, a board's folder, or a pull request", description="Exit code 1: refused."
    )
    check.add_argument("target", help="result file, folder of a board, or its repository")
    check.add_argument("--leaderboard", help="the board of a result file; by default the folder around it")
    check.add_argument("--pr", type=int, help="number of the pull request to check")
    check.add_argument("--comment", action="store_true", help="write the report into the pull request")
    check.add_argument("--merge", action="store_true", help="merge the pull request if nothing is refused")
    check.add_argument("--against", metavar="SITE", help="a built site: ids that it shows must still be there")
    check.add_argument("--no_data", action="store_true", help="without source and sets (checks 4 and 5 are left out)")
    withdraw = actions.add_parser("withdraw", help="withdraw a result; its numbers stay")
    withdraw.add_argument("id", help="of the result")
    withdraw.add_argument("--leaderboard", required=True, help=BOARD_HELP)
    withdraw.add_argument("--reason", required=True, choices=("claim", "licence", "error"), help="why")
    withdraw.add_argument("--by", help="who; the Hub's user, or the system's for a folder, by default")
    _add_site(actions)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by", help="who; the Hub's user, or the system's for a folder, by default")
    parser.add_argument(
        "--work_dir", dest="work", help="where finished students are kept; the user's cache by default"
    )
    parser.add_argument("--dry_run", action="store_true", help="change nothing on the board")


def _add_init(actions: Any) -> None:
    init = actions.add_parser("init", help="start a board in a folder, and publish it with --push_to_hub")
    init.add_argument("folder", help="becomes the board")
    init.add_argument("--name", help="of the board; the folder's by default")
    init.add_argument(
        "--sources", type=_names, default=("digits",), help="source datasets, with commas (default digits)"
    )
    init.add_argument("--ipc", type=_numbers, default=(1, 10), help="images a class, with commas (default 1,10)")
    init.add_argument("--students", type=_names, default=("convnet_w32",), help="student networks, with commas")
    init.add_argument(
        "--regimes", type=_names, default=("hard", "stored", "online"), help="label regimes, with commas"
    )
    init.add_argument("--protocol", default="small", help="student recipe (default small)")
    init.add_argument("--steps", type=int, help="another number of steps of the protocol")
    init.add_argument("--teacher_model", default="convnet_w32", help="network that makes all soft labels")
    init.add_argument("--teacher_epochs", type=int, default=20, help="epochs of its training (default 20)")
    init.add_argument("--max_per_class", type=int, help="use at most this many training images of a class")
    init.add_argument("--seeds_min", type=int, default=5, help="fewer seeds are refused (default 5)")
    init.add_argument("--seeds", type=int, default=10, help="recommended seeds (default 10)")
    init.add_argument("--draws", type=int, default=30, help="random draws of the bank for each task (default 30)")
    init.add_argument(
        "--ladder", type=_numbers, default=(1, 2, 5, 10, 20, 50, 100, 200), help="IPC of the ladder of random sets"
    )
    init.add_argument("--ladder_draws", type=int, default=10, help="random draws at each of them (default 10)")
    init.add_argument(
        "--deny_licences", type=_names, default=(), help="licences of sets that are refused, with commas"
    )
    init.add_argument("--push_to_hub", metavar="REPO", help="also publish it as this dataset repository")


def _add_site(actions: Any) -> None:
    build = actions.add_parser("build", help="make the pages of a board")
    build.add_argument("leaderboard", help=BOARD_HELP)
    build.add_argument("--output_dir", required=True, help="folder of the site")
    serve = actions.add_parser("serve", help="show a built site on this machine")
    serve.add_argument("site", help="folder that `build` made")
    serve.add_argument("--port", type=int, default=8000, help="0 takes a free one (default 8000)")
    push = actions.add_parser("push", help="publish a built site as a static Space")
    push.add_argument("site", help="folder that `build` made")
    push.add_argument("repo_id", metavar="SPACE", help="owner/name of the Space")
    push.add_argument("--leaderboard", help="also put the table into this results repository, for its dataset viewer")
    push.add_argument("--private", action="store_true", default=None, help="make it private")
    push.add_argument("--dry_run", action="store_true", help="only say what would go up")


def run(command: str, given: dict[str, Any], reproduce: Callable[[Any], Any]) -> int:
    """Runs a command; returns the exit code. `reproduce` runs the recipe of a set's folder again, for `verify --remake`."""
    name = given.pop("action", command)
    if name == "verify":
        given["remake"] = reproduce if given["remake"] else None
    actions: dict[str, Callable[..., int]] = {
        "submit": submit,
        "verify": verify,
        "init": init,
        "bank": bank,
        "check": check,
        "withdraw": withdraw,
        "build": build,
        "serve": serve,
        "push": push,
    }
    return actions[name](**given)


def submit(names: list[str], leaderboard: str, work: str | None, **options: Any) -> int:
    from pathlib import Path

    from hf_condense.leaderboard.submit import submit as score_and_submit

    done = score_and_submit(names, leaderboard, work=work and Path(work), **options)
    print(done.verdicts)
    print(f"result {done.result.id}: {done.where or 'not submitted (--dry_run)'}")
    for repo in done.students:
        print(f"student {repo}")
    return 0


def verify(id: str, leaderboard: str, work: str | None, **options: Any) -> int:
    from pathlib import Path

    from hf_condense.leaderboard.verify import verify as score_again

    done = score_again(id, leaderboard, work=work and Path(work), **options)
    print(done.text())
    print(done.where or "not added (--dry_run)")
    return 1 if done.found.verdict == "disagrees" else 0


def init(folder: str, name: str | None, push_to_hub: str | None, **settings: Any) -> int:
    from pathlib import Path

    from hf_condense.leaderboard.keep import BoardSettings, init_board, push_board

    board = init_board(folder, name or Path(folder).resolve().name, BoardSettings(**settings))
    print(f"board {board.name} ({board.fingerprint}) in {folder}: {len(board.tasks())} tasks")
    if push_to_hub:
        print(push_board(folder, push_to_hub))
    print(f"next: hf-condense leaderboard bank {push_to_hub or folder}")
    return 0


def bank(leaderboard: str, by: str | None, work: str | None, dry_run: bool) -> int:
    from pathlib import Path

    from hf_condense.leaderboard.bank import fill_bank
    from hf_condense.leaderboard.place import author_of, open_place

    made, students = fill_bank(
        leaderboard, by=author_of(open_place(leaderboard), by), dry_run=dry_run, work=work and Path(work)
    )
    print(f"{made} baselines, {students} students{' to train' if dry_run else ''}")
    return 0


def check(
    target: str,
    leaderboard: str | None,
    pr: int | None,
    comment: bool,
    merge: bool,
    against: str | None,
    no_data: bool,
) -> int:
    from hf_condense.leaderboard.checking import check_target

    found = check_target(
        target, leaderboard=leaderboard, pr=pr, comment=comment, merge=merge, against=against, data=not no_data
    )
    print(found.text())
    return 1 if found.refused else 0


def withdraw(id: str, leaderboard: str, reason: str, by: str | None) -> int:
    from hf_condense.leaderboard.withdraw import withdraw as add_withdrawal

    print(add_withdrawal(id, leaderboard, reason, by=by))
    return 0


def build(leaderboard: str, output_dir: str) -> int:
    from hf_condense.leaderboard.site import build_site

    print(f"open {build_site(leaderboard, output_dir) / 'index.html'}")
    return 0


def serve(site: str, port: int) -> int:
    from hf_condense.leaderboard.serve import serve as serve_site

    serve_site(site, port)
    return 0


def push(site: str, repo_id: str, leaderboard: str | None, **options: Any) -> int:
    from hf_condense.leaderboard.space import push_space, push_table

    print(push_space(site, repo_id, **options))
    if leaderboard and not options["dry_run"]:
        print(push_table(site, leaderboard))
    return 0
