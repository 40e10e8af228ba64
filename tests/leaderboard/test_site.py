"""The site of a board: whole without JavaScript, safe whatever a stranger wrote, the same bytes from the same results."""

from __future__ import annotations

import csv
import io
import json
import struct
import urllib.error
import urllib.request
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hf_condense.cli import main
from hf_condense.errors import ArtefactError, ConfigError, HubError
from hf_condense.leaderboard.drawing import axis_limit, bar, pareto_points
from hf_condense.leaderboard.entries import read_file, write_file
from hf_condense.leaderboard.figures import factor, points, size_range
from hf_condense.leaderboard.judging import Judged
from hf_condense.leaderboard.pictures import MAX_BYTES, encode_again
from hf_condense.leaderboard.place import Place, open_place
from hf_condense.leaderboard.result import FORMAT, Result
from hf_condense.leaderboard.serve import serve, serving
from hf_condense.leaderboard.site import build, build_site
from hf_condense.leaderboard.space import push_space
from hf_condense.leaderboard.statements import Withdrawal
from hf_condense.leaderboard.statistics import ABOVE
from tests.leaderboard.hostile import SCRIPTS, hostile
from tests.leaderboard.synthetic import Maker, make_board, write_small_board

ALLOWED = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'"


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def attributes(self, name: str) -> list[str]:
        return [a[name] or "" for _, a in self.tags if name in a]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(folder of the board, its built site); not to be changed."""
    folder = tmp_path_factory.mktemp("small")
    write_small_board(folder / "board", methods=6, sources=1)
    return folder / "board", build(open_place(folder / "board"), folder / "site")


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def test_text_alone_holds_every_method_verdict_and_number(small):
    collected = small[1].collected
    for task, rows in collected.rows.items():
        if task.ipc not in collected.board.ipc:
            continue
        page = Page(small[1].folder / f"tasks/{task.source}-ipc{task.ipc}.html").text
        for row in rows:
            assert row.result.content.method.title in page
            assert f"{100 * row.mean:.1f}" in page
            if row.judged:
                assert points(row.judged.delta) in page and row.judged.verdict.split(" ")[0] in page
    index = Page(small[1].folder / "index.html").text
    tally = collected.verdicts(r for t, rows in collected.rows.items() for r in rows)
    assert f"Of {sum(tally.values())} verdicts on {len(collected.submissions)} submissions" in index
    for verdict, count in tally.items():
        assert f"{verdict} {count}" in index


def test_every_page_names_policy_digest_and_language_and_links_lead_somewhere(small):
    site = small[1].folder
    for path in pages(site):
        page = Page(path)
        (policy,) = [a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
        assert policy.startswith(ALLOWED) and small[1].collected.digest in page.text
        assert page.tags[0] == ("html", {"lang": "en"})
        assert not page.attributes("style") and not [t for t, a in page.tags if t == "script" and "src" not in a]
        assert all(a.get("scope") for t, a in page.tags if t == "th")
        for address in [*page.attributes("href"), *page.attributes("src")]:
            if not address.startswith(("https://", "#")):
                target = (path.parent / address.split("#")[0]).resolve()
                assert target.is_file() and target.is_relative_to(site.resolve()), (path, address)
        ids = page.attributes("id")
        assert len(set(ids)) == len(ids)
        here = [a[1:] for a in page.attributes("href") if a.startswith("#")]
        assert set(here) <= set(ids)


def test_the_same_results_give_the_same_bytes_and_another_place_too(small, tmp_path):
    again = build_site(small[0], tmp_path / "again")
    files = {p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file()}
    first = small[1].folder
    assert files == {p.relative_to(first): p.read_bytes() for p in first.rglob("*") if p.is_file()}
    assert (small[0] / "table/board.parquet").read_bytes() == (again / "board.parquet").read_bytes()


def test_data_files_hold_every_row(small):
    folder, collected = small[1].folder, small[1].collected
    table = pq.read_table(folder / "board.parquet").to_pylist()
    assert len(table) == sum(map(len, collected.rows.values()))
    held = json.loads((folder / "board.json").read_text(encoding="utf-8"))
    assert held["rows"] == table and held["digest"] == f"sha256:{collected.digest}"
    lines = list(csv.DictReader(io.StringIO((folder / "board.csv").read_text(encoding="utf-8"))))
    assert [line["id"] for line in lines] == [row["id"] for row in table]
    found = {
        (row.result.id, row.column.regime, row.column.student): row for rows in collected.rows.values() for row in rows
    }
    for line in table:
        row = found[line["id"], line["regime"], line["student"]]
        assert line["top1_mean"] == round(row.mean, 6) and line["verdict"] == (row.judged and row.judged.verdict)


def test_a_result_that_vanished_is_seen_by_the_built_site(small, tmp_path):
    from hf_condense.leaderboard.checking import check_target

    assert "vanished" not in check_target(str(small[0]), against=str(small[1].folder), data=False).text()
    board = tmp_path / "board"
    write_small_board(board, methods=6, sources=1)
    gone = next(r for r in small[1].collected.submissions)
    (board / gone.place).unlink()
    said = check_target(str(board), against=str(small[1].folder), data=False).text()
    assert "ids that vanished" in said and gone.id in said


def test_hostile_strings_are_text_on_every_page(tmp_path):
    maker = Maker(make_board(ipc=(1,)))
    for result in maker.baselines():
        write_file(tmp_path, result)
    made = [hostile(maker.result(f"x{i}"), i) for i in range(len(SCRIPTS))]
    for result in made:
        path = write_file(tmp_path, result)
        assert read_file(Result, path) == result  # reading lets it through: the pages have to hold
    site = build(Place(tmp_path, maker.board), tmp_path / "site").folder
    calm = {"script", "link", "meta"}
    for path in pages(site):
        page = Page(path)
        tags = [t for t, _ in page.tags]
        assert tags.count("script") == 1 and "iframe" not in tags and "base" not in tags and "style" not in tags
        assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
        assert sum(t == "meta" for t in tags) == 4 and "img" not in tags
        assert all(a.get("src") is None or "evil" not in a["src"] for t, a in page.tags if t in calm)
        for tag, attributes in page.tags:
            if attributes.get("href", "").startswith("https://"):
                assert tag == "a" and "noopener" in attributes["rel"]
        assert "49" not in [word.strip() for word in page.words if "{{" in word]
    for result, text in zip(made, SCRIPTS):
        assert " ".join(text.split()) in Page(site / f"methods/{result.id}.html").text
    lines = csv.DictReader(io.StringIO((site / "board.csv").read_text(encoding="utf-8")))
    assert not [line["title"] for line in lines if line["title"].startswith("=")]


def test_withdrawal_for_the_licence_hides_links_and_no_other_reason_does(tmp_path):
    maker = Maker(make_board(ipc=(1,)))
    results = {reason: maker.result("edc", n=5, by=by) for reason, by in (("licence", "ada"), ("claim", "eve"))}
    for reason, result in results.items():
        write_file(tmp_path, result)
        write_file(tmp_path, Withdrawal(FORMAT, result.id, reason, result.submitted.by, "2026-11-26"))
    site = build(Place(tmp_path, maker.board), tmp_path / "site").folder
    links = {
        reason: [a for a in Page(site / f"methods/{r.id}.html").attributes("href") if a.startswith("https://")]
        for reason, r in results.items()
    }
    assert not links["licence"] and len(links["claim"]) == 7  # five sets, paper, code
    index = (site / "board.json").read_text(encoding="utf-8")
    assert "ada/edc" not in index and "eve/edc" in index
    for reason, result in results.items():
        page = Page(site / f"methods/{result.id}.html").text
        assert f"{result.content.columns[0].correct[0]}" in page and "Withdrawn" in page, reason


def test_an_empty_board_has_pages_and_a_bad_place_a_reason(tmp_path):
    board = make_board()
    site = build(Place(tmp_path, board), tmp_path / "site").folder
    assert "There are no results yet" in Page(site / "index.html").text
    with pytest.raises(ArtefactError, match="board.yaml"):
        build_site(tmp_path, tmp_path / "other")
    assert not (tmp_path / "other").exists()


# --- pictures


def png(width: int, height: int, pixels: bytes | None = None) -> bytes:
    """A PNG of a stated size, whose data may be anything."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    data = zlib.compress(pixels if pixels is not None else bytes((width + 1) * height))
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    text = b"Comment\0<script>alert(1)</script>"
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"tEXt", text) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def test_pictures_are_pixels_alone_of_at_most_300_kilobytes():
    found = encode_again(png(40, 30))
    assert (found.suffix, found.width, found.height) == ("png", 40, 30) and b"script" not in found.data
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (500, 700, 3), "uint8")).save(noise, "PNG")
    large = encode_again(noise.getvalue())
    assert large.suffix == "webp" and len(large.data) <= MAX_BYTES < len(noise.getvalue())


@pytest.mark.parametrize(
    "data, said",
    [
        (png(50_000, 50_000, b""), "pixels"), (png(9000, 2000, b""), "16000000"), (b"\x89PNG" + bytes(8_000_001), "at most"),
        (b"GIF89a" + bytes(100), "cannot identify"), (b"<svg onload=alert(1)>", "cannot identify"), (png(40, 30)[:-20], "truncated|broken|Truncated"),
    ],
)  # fmt: skip
def test_bombs_and_other_formats_are_no_pictures(data, said):
    with pytest.raises((ValueError, OSError, SyntaxError, Image.DecompressionBombError), match=said):
        encode_again(data)


def test_a_board_in_a_folder_shows_its_own_previews_and_never_a_link_out_of_it(tmp_path):
    from dataclasses import replace

    board, maker = tmp_path / "board", Maker(make_board(ipc=(1,)))
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(10, 10))
    results = []
    for i, name in enumerate(("whole", "linked", "bomb")):
        made = maker.result("edc", scope="set", by=f"p{i}")
        ref = replace(made.content.sets[0], repo=f"sets/{name}", revision=None)
        results.append(Result.of(replace(made.content, sets=(ref,)), made.submitted))
        write_file(board, results[-1])
        (board / f"sets/{name}").mkdir(parents=True)
    (board / "sets/whole/preview.png").write_bytes(png(40, 30))
    (board / "sets/linked/preview.png").symlink_to(secret)
    (board / "sets/bomb/preview.png").write_bytes(png(60_000, 60_000, b""))
    site = build(Place(board, maker.board), tmp_path / "site").folder
    shown = [Page(site / f"methods/{r.id}.html").attributes("src")[1:] for r in results]
    assert shown == [[f"../pictures/{results[0].id}.png"], [], []]
    assert [p.name for p in (site / "pictures").iterdir()] == [f"{results[0].id}.png"]


# --- figures


def test_numbers_have_a_true_minus_and_no_negative_zero():
    assert [points(v) for v in (0.0412, -0.003, -0.0004, 0.0)] == ["+4.1", "−0.3", "0.0", "0.0"]
    assert [factor(v) for v in (0.05, 0.453, 1.0, 1.84, 12.3, 250.0)] == ["0.05", "0.45", "1.0", "1.8", "12", "250"]
    assert size_range(1900, 61_900) == "1.9–61.9 kB" and size_range(500, 500) == "500 bytes"


def test_a_difference_is_drawn_on_the_axis_of_its_table(small):
    rows = [row for rows in small[1].collected.rows.values() for row in rows]
    assert axis_limit(rows) in (0.05, 0.1, 0.2) and axis_limit([]) > 0
    drawn = bar(Judged(0.05, 0.0, 0.1, 0.01, 0.02, ABOVE), 0.1)
    assert 'x1="88.0"' in drawn and 'x2="172.0"' in drawn and 'cx="130.0"' in drawn
    assert "polygon" in bar(Judged(0.5, 0.4, 0.6, 0.01, 0.02, ABOVE), 0.1)


def test_the_front_holds_what_nothing_else_beats(small):
    rows = [row for task, rows in small[1].collected.rows.items() for row in rows if task.ipc == 10][:20]
    found = pareto_points(rows, "seconds")
    for point in found:
        beaten = any(p.cost <= point.cost and p.row.mean > point.row.mean for p in found)
        beaten |= any(p.cost < point.cost and p.row.mean >= point.row.mean for p in found)
        assert point.on_front != beaten


# --- serving and pushing


def fetched(address: str) -> bytes:
    with urllib.request.urlopen(address) as answer:
        return answer.read()


def test_a_site_is_served_on_the_loopback_address_alone(small):
    with serving(small[1].folder) as (address, _):
        assert address.startswith("http://127.0.0.1:")
        for path in small[1].folder.rglob("*.css"):
            assert fetched(address + path.name) == path.read_bytes()
        for stranger in ("tasks/", "../board/board.yaml", "%2e%2e/board/board.yaml", "..%2fboard/board.yaml"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                fetched(address + stranger)
        with pytest.raises(ConfigError, match="port"):
            serve(small[1].folder, int(address.rsplit(":", 1)[1].strip("/")))
    with pytest.raises(ArtefactError, match="leaderboard build"):
        serve(small[0])


def test_push_makes_a_static_space_that_holds_the_site_and_is_safe_to_repeat(hub, small, tmp_path):
    from huggingface_hub import snapshot_download

    site, space = small[1].folder, hub.fresh("space")
    assert "would send" in push_space(site, space, dry_run=True)
    assert not hub.api().repo_exists(space, repo_type="space")
    with hub.fault("commit", drop_after=100), pytest.raises(HubError, match="same command again"):
        push_space(site, space)
    with hub.fault("commit", status=412):
        assert space in push_space(site, space)
    assert hub.api().space_info(space).sdk == "static"
    down = Path(snapshot_download(space, repo_type="space", local_dir=tmp_path / "down"))
    with serving(down) as (address, _):
        for path in (p for p in site.rglob("*") if p.is_file()):
            name = path.relative_to(site).as_posix()
            assert fetched(address + name) == path.read_bytes(), name
    commits = len(hub.api().list_repo_commits(space, repo_type="space"))
    assert "sent 0 files" in push_space(site, space)
    assert len(hub.api().list_repo_commits(space, repo_type="space")) == commits
    with pytest.raises(HubError, match="write"):
        push_space(site, "stranger/space")


def test_pages_of_a_vanished_result_leave_the_space(hub, small, tmp_path):
    space, board = hub.fresh("space"), tmp_path / "board"
    write_small_board(board, methods=3, sources=1)
    push_space(build_site(board, tmp_path / "site"), space)
    before = set(hub.api().list_repo_files(space, repo_type="space"))
    gone = next(r for r in open_place(board).entries(Result) if r.content.kind == "submission")
    (board / gone.place).unlink()
    push_space(build_site(board, tmp_path / "site"), space)
    assert before - set(hub.api().list_repo_files(space, repo_type="space")) == {f"methods/{gone.id}.html"}


def test_a_repository_is_built_at_its_commit(hub, small, tmp_path):
    name = hub.fresh("board")
    hub.api().create_repo(name, repo_type="dataset")
    hub.api().upload_folder(repo_id=name, repo_type="dataset", folder_path=small[0])
    place = open_place(name)
    site = build(place, tmp_path / "site", pictures=False)
    text = Page(site.folder / "index.html").text
    assert f"{name} at commit {place.commit}" in text and len(site.collected.submissions) == len(
        small[1].collected.submissions
    )
    assert {s.level for s in site.collected.standings.values()} >= {"checked", "by the board"}
    space = hub.fresh("space")
    assert main(["leaderboard", "push", str(site.folder), space, "--leaderboard", name]) == 0
    viewed = hub.api().hf_hub_download(name, "table/board.parquet", repo_type="dataset")
    assert Path(viewed).read_bytes() == (site.folder / "board.parquet").read_bytes()
    assert open_place(name).commit != place.commit
    assert main(["leaderboard", "push", str(site.folder), space, "--leaderboard", str(small[0])]) == 2


def test_a_board_that_was_scored_is_built_by_the_command(board, work, make_set, tmp_path, capsys):
    from hf_condense.leaderboard.submit import submit

    done = submit([str(make_set(1))], board, work=work, by="ada")
    assert main(["leaderboard", "build", str(board), "--output_dir", str(tmp_path / "site")]) == 0
    assert "index.html" in capsys.readouterr().out
    page = Page(tmp_path / f"site/methods/{done.result.id}.html")
    for column in done.result.content.columns:
        assert " ".join(map(str, column.correct)) in page.text
    found = [line.rsplit(": ", 1)[1].split(" (")[0] for line in done.verdicts.splitlines()[1:]]
    shown = [text for text in page.words if text.strip() and text.strip()[2:] in found]
    assert [text.strip()[2:] for text in shown] == found  # what `submit` printed
