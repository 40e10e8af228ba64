"""Result files: named by their content, and every kind of hostile one refused with field and reason."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest

from hf_condense.errors import ArtefactError
from hf_condense.files import canonical_json
from hf_condense.leaderboard.entries import check_place, read_bytes, read_file, write_file
from hf_condense.leaderboard.limits import MAX_BYTES
from hf_condense.leaderboard.result import Content, Result, check_board, content_id
from hf_condense.leaderboard.statements import Verification, Withdrawal
from tests.leaderboard.example import example_board, example_content, example_result


def test_written_and_read_again(tmp_path):
    result = example_result()
    path = write_file(tmp_path, result)
    assert path.relative_to(tmp_path).as_posix() == f"results/digits/ipc10/{result.id[:2]}/{result.id}.json"
    assert read_file(Result, path) == result
    assert path.read_text() == canonical_json(result) + "\n"
    assert write_file(tmp_path, result) == path


def test_id_is_of_the_content_alone():
    one, other = example_result(), example_result(by="grace")
    assert one.id == other.id
    assert one.id != example_result(ipc=1).id


def test_withdrawals_and_verifications(tmp_path):
    result = example_result()
    withdrawal = Withdrawal(1, result.id, "licence", "ada", "2026-02-01")
    assert read_file(Withdrawal, write_file(tmp_path, withdrawal)) == withdrawal
    c = result.content
    verification = Verification(1, c.board, result.id, "0" * 40, c.columns, None, c.provenance, result.submitted)
    path = write_file(tmp_path, verification)
    assert path.parent.name == result.id and path.name.startswith("ada-")
    assert read_file(Verification, path) == verification


def test_place_and_board():
    result = example_result()
    check_place(result, result.place)
    with pytest.raises(ArtefactError, match="path"):
        check_place(result, f"results/../{result.id}.json")
    with pytest.raises(ArtefactError, match="board.fingerprint"):
        check_board(result.content.board, example_board(students=("convnet_w32",)))


def changed(*path: str | int, to: Any) -> Callable[[dict], None]:
    """Changes one value of a file's content."""

    def change(content: dict) -> None:
        place = content
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = to

    return change


SUBMITTED = {"by": "ada", "date": "2026-01-31"}
SCRIPT = "<script>alert(1)</script>"
HOSTILE = {
    "bidi": (changed("method", "title", to="EDC \u202egnp.exe"), r"method.title.*U\+202E"),
    "zero width": (changed("method", "title", to="E\u200bDC"), r"method.title.*U\+200B"),
    "control": (changed("cost", "device", to="CPU\x1b[2J"), r"cost.device.*U\+001B"),
    "not NFC": (changed("method", "title", to="e\u0301"), "method.title.*NFC"),
    "surrogate": (changed("method", "title", to="\ud800"), r"text.*U\+D800.*surrogates"),
    "long": (changed("method", "title", to="x" * 301), "method.title.*300"),
    "javascript url": (changed("method", "paper", to="javascript:alert(1)"), "method.paper.*https"),
    "quoted url": (changed("method", "code", to='https://x.org/"><img src=x>'), "method.code.*https"),
    "url with a user": (changed("method", "code", to="https://arxiv.org@evil.example/"), "method.code.*https"),
    "script as method": (changed("method", "name", to=SCRIPT), "method.name"),
    "script as repo": (changed("sets", 0, "repo", to=SCRIPT), r"sets\[0\].repo"),
    "path as repo": (changed("sets", 0, "repo", to="../../etc"), r"sets\[0\].repo"),
    "dots in repo": (changed("sets", 0, "repo", to="a/.."), r"sets\[0\].repo"),
    "path as local set": (changed("sets", 0, "repo", to="sets/../../etc"), r"sets\[0\].repo"),
    "branch for a commit": (changed("sets", 0, "revision", to="main"), r"sets\[0\].revision.*40 hex"),
    "no commit": (changed("sets", 0, "revision", to=None), r"sets\[0\].revision.*40 hex"),
    "float counts": (changed("columns", 0, "correct", to=[250.0] * 5), r"columns\[0\].correct\[0\].*whole number"),
    "true as count": (changed("columns", 0, "correct", to=[True] * 5), r"columns\[0\].correct\[0\].*whole number"),
    "negative counts": (changed("columns", 0, "correct", to=[-1] * 5), r"columns\[0\].correct"),
    "more right than tested": (changed("columns", 0, "correct", to=[361] * 5), r"columns\[0\].correct.*360"),
    "too few counts": (changed("columns", 0, "correct", to=[250]), r"columns\[0\].correct.*one entry per seed"),
    "seed twice": (changed("columns", 0, "seeds", to=[1, 1, 2, 3, 4]), r"columns\[0\].seeds.*different seeds"),
    "set twice": (changed("columns", 0, "set_index", to=[0] * 5), r"columns\[0\].set_index.*each set once"),
    "set outside": (changed("columns", 0, "set_index", to=[9, 1, 2, 3, 4]), r"columns\[0\].set_index.*below 5"),
    "huge number": (changed("cost", "peak_memory", to=10**400), "digits"),
    "statistic": (lambda c: c.update(p_value=0.001), "p_value"),
    "unknown field": (lambda c: c["method"].update(onclick="x"), "method.onclick"),
    "missing field": (lambda c: c.pop("cost"), "content.cost.*missing"),
    "column twice": (lambda c: c["columns"].append(c["columns"][0]), "columns.*once"),
    "regime": (changed("columns", 0, "regime", to="soft"), r"columns\[0\].regime"),
    "settings too large": (
        changed("method", "settings", to={f"k{i}": "x" * 300 for i in range(30)}), "method.settings.*8000"
    ),
    "settings of another digest": (changed("method", "settings", to={"steps": 1}), "method.settings_sha256"),
    "bidi in settings": (changed("method", "settings", to={"a": ["\u2066"]}), r"settings.a\[0\].*U\+2066"),
    "too many numbers": (changed("cost", "synthesis_seconds", to=[0] * 2001), "at most 2000 numbers"),
    "depth": (changed("method", "settings", to={"a": [[[[[[1]]]]]]}), "depth.*at most 8"),
    "another format": (changed("format", to=2), "content.format"),
    "supersedes a path": (changed("supersedes", to="../../board"), "supersedes"),
}  # fmt: skip


def spelled(content: dict, canonically: bool = False) -> bytes:
    """A file whose id fits its content, so that only the content can be the reason."""
    text = canonical_json(content).encode("utf-8", "surrogatepass")
    file = {"id": hashlib.sha256(text).hexdigest()[:20], "content": content, "submitted": SUBMITTED}
    if canonically:
        return f"{canonical_json(file)}\n".encode("utf-8", "surrogatepass")
    return json.dumps(file).encode()


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_content_is_refused(kind: str):
    change, said = HOSTILE[kind]
    content = json.loads(canonical_json(example_content()))
    assert read_bytes(Result, spelled(content), "file").content  # the unchanged one is taken
    assert read_bytes(Result, spelled(content, canonically=True), "file").content
    change(content)
    with pytest.raises(ArtefactError):  # files that are spelled as this library does are read another way
        read_bytes(Result, spelled(content, canonically=True), "file")
    with pytest.raises(ArtefactError, match=said) as refused:
        read_bytes(Result, spelled(content), "file")
    assert str(refused.value).isascii() and len(str(refused.value)) < 600


PLAIN = canonical_json(asdict(example_result())).encode()
FILES = {
    "nan": (PLAIN.replace(b'"pool_seconds":10.0', b'"pool_seconds":NaN'), "NaN"),
    "infinity": (PLAIN.replace(b'"pool_seconds":10.0', b'"pool_seconds":-Infinity'), "Infinity"),
    "infinite by overflow": (PLAIN.replace(b'"pool_seconds":10.0', b'"pool_seconds":1e999'), "finite"),
    "duplicate key": (PLAIN.replace(b'"ipc":10', b'"ipc":1,"ipc":10'), "each key once"),
    "duplicate key by escape": (PLAIN.replace(b'"ipc":10', b'"ip\\u0063":1,"ipc":10'), "each key once"),
    "depth 10000": (b"[" * 10_000 + b"]" * 10_000, "depth"),
    "depth behind a quote": (b'{"a":"\\"' + b'":' + b"[" * 9_000, "depth"),
    "not UTF-8": (PLAIN.replace(b"EDC", b"\xff\xfe"), "UTF-8"),
    "UTF-16": (PLAIN.decode().encode("utf-16"), "UTF-8"),
    "wrong id": (PLAIN.replace(b'"ipc":10', b'"ipc":11'), "id.*sha256"),
    "forged date": (PLAIN.replace(b"2026-01-31", b"yesterday"), "submitted.date"),
    "author of no kind": (PLAIN.replace(b'"by":"ada"', b'"by":"<b>ada"'), "submitted.by"),
    "not an object": (b"[]", "an object"),
    "empty": (b"", "JSON"),
    "pickle": (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.", "UTF-8"),
}


@pytest.mark.parametrize("kind", FILES)
def test_hostile_files_are_refused(kind: str):
    data, said = FILES[kind]
    assert data != PLAIN
    with pytest.raises(ArtefactError, match=said):
        read_bytes(Result, data, "file")


def test_what_no_reader_would_take_is_not_written(tmp_path):
    with pytest.raises(ArtefactError, match="submitted.by"):
        write_file(tmp_path, example_result(by="ada & grace"))
    assert not list(tmp_path.rglob("*.json"))


def test_a_list_of_a_gigabyte_is_not_read(tmp_path):
    path = tmp_path / "large.json"
    with open(path, "wb") as file:
        file.write(b"[0")
        file.truncate(1 << 30)
    with pytest.raises(ArtefactError, match=f"at most {MAX_BYTES} bytes"):
        read_file(Result, path)


def test_text_stays_text():
    """A title may hold markup: pages escape it. It is no reason to refuse a paper's title with a '<' in it."""
    content = example_content()
    titled = replace(content, method=replace(content.method, title="DD <5 images> & more"))
    assert isinstance(titled, Content) and content_id(titled) != content_id(content)
