"""Messages stay readable whatever stands in the data."""

import pickle

from hf_condense.errors import DataError


def test_values_in_messages_have_a_limit():
    name = "a" * 20_000 + "z"
    told = str(DataError("label", name, "a class name", f"rename {name}"))
    assert len(told) < 3000 and "more characters ..." in told and told.count("z'") == 1
    assert str(DataError("ipc", 3, "at most 1", "choose less")) == ("invalid ipc=3: expected at most 1. Choose less.")
    listed = DataError("labels", list(range(10**6)), "one", "x" * 5000)
    assert len(str(listed)) < 3000
    assert pickle.loads(pickle.dumps(listed)).value == listed.value  # the error itself keeps the value
