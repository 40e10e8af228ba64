"""What the library says of methods beside random images is what its boards found."""

import json

from benchmarks.verdicts import FILE, counted
from hf_condense.cli import main
from hf_condense.methods import list_methods
from hf_condense.methods.measured import described, verdicts_of, warning


def test_the_file_is_what_the_boards_give():
    assert json.loads(FILE.read_text(encoding="utf-8")) == counted(), "run `python -m benchmarks.verdicts`"


def test_verdicts_are_counted_by_labels(tmp_path):
    head = "source,ipc,regime,student,kind,method,verdict,not_counted\n"
    rows = [
        "digits,1,hard,a,submission,dm,above random,",
        "digits,1,stored,a,submission,dm,below random,",
        "digits,1,online,a,submission,dm,no different from random,",
        "digits,1,own,a,submission,dm,above random,",  # its own labels: nothing that others could compare with
        "digits,1,hard,b,submission,dm,above random,withdrawn (error)",
        "digits,1,hard,a,baseline,herding,above random,",
        "digits,1,hard,a,baseline,full,above random,",
        "digits,1,hard,c,submission,dm,,",  # the bank has no draws there
    ]
    (tmp_path / "board_x.csv").write_text(head + "\n".join(rows))
    assert counted(tmp_path) == {
        "boards": ["digits"],
        "methods": {"coreset": {"hard": [1, 0, 0]}, "dm": {"hard": [1, 0, 0], "soft": [0, 1, 1]}},
    }


def test_every_listed_method_says_what_was_found_of_it(capsys):
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, line in zip(list_methods(), lines):
        assert line.split()[0] == name and described(name) in line
    assert "above random real images" in lines[-2]


def test_a_method_that_is_nowhere_above_random_images_says_so():
    for name in list_methods():
        found, said = list(verdicts_of(name).values()), warning(name)
        never = bool(found) and not any(counts.above for counts in found)
        assert (said is not None) == never, name
        if never:
            same, below = sum(counts.same for counts in found), sum(counts.below for counts in found)
            assert f"in none of {same + below} columns: no different in {same}, below in {below}." in said
    assert warning("random") is not None and warning("no-such-method") is None
