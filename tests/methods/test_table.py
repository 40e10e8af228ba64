"""The table of methods: what a card takes from it is whole."""

from __future__ import annotations

import pytest

from hf_condense.methods import list_methods, method_info


@pytest.mark.parametrize("name", list_methods())
def test_a_paper_is_cited_with_its_authors_and_year(name):
    info = method_info(name)
    assert bool(info.paper) == bool(info.citation)
    for field in ("title = {", "author = {", "year = {") if info.citation else ():
        assert info.citation.count(field) == 1 + (field == "title = {" and "booktitle = {" in info.citation), field
