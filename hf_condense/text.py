"""Text that others wrote, made safe to show: in a terminal, in Markdown and HTML, in a picture."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

LONGEST = 300  # characters of a value in a message
# controls, line and paragraph separators, what turns the direction of writing or is invisible, and lone surrogates
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_MARKUP = str.maketrans({"`": "'", "|": "&#124;"})


def printable(text: object) -> str:
    """One line that shows all it holds: line breaks, escapes and invisible characters are written as Python writes them."""
    return _UNSEEN.sub(_escape, str(text))


def shortened(text: str, longest: int = LONGEST) -> str:
    """Start and end of a text that is longer than `longest`, with what was left out in between as a number."""
    if len(text) <= longest:
        return text
    kept = longest // 2
    return f"{text[:kept]}... {len(text) - 2 * kept} more characters ...{text[-kept:]}"


def shown(value: object) -> str:
    """A value in a message: as Python writes it, in one line, not longer than `LONGEST`."""
    if isinstance(value, (list, tuple)) and len(value) > LONGEST:  # nothing huge is written out
        value = [*value[:LONGEST], ...]
    return shortened(printable(repr(value)))


def listed(names: Sequence[str], most: int = 3) -> str:
    """Names in a sentence, the number of the rest where there are many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def markdown(value: Any) -> Any:
    """Text, or all text in plain data, for any place of a Markdown file: prose, tables, links and code spans.

    It stays in its line and is neither HTML nor a link, whatever stands around it.
    """
    if isinstance(value, dict):
        return {name: markdown(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [markdown(part) for part in value]
    if not isinstance(value, str):
        return value
    return html.escape(printable(value), quote=False).translate(_MARKUP).replace("](", "]&#40;")


def block(text: str) -> str:
    """Lines that stay in the code block or table that they stand in, and are no HTML."""
    lines = [html.escape(printable(line), quote=False).replace("```", "'''") for line in text.split("\n")]
    return "\n".join(lines)


def encodable(text: str) -> str:
    """The text with lone surrogates, which no file in UTF-8 can hold, written as Python writes them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _escape(found: re.Match) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
