"""Licenses under the Hub's identifiers, and whether they forbid commercial use."""

from __future__ import annotations

import re

# the values that the Hub allows for `license:`; anything else is written as `other` with its name beside it
KNOWN_LICENSE = re.compile(
    r"(apache-2\.0|mit|unknown|other|unlicense|wtfpl|isc|zlib|odbl|odc-by|pddl|openrail(\+\+)?|afl-3\.0|artistic-2\.0"
    r"|bsd(-[23]-clause(-clear)?)?|bsl-1\.0|cdla-(permissive-[12]\.0|sharing-1\.0)|c-uda|cc(0-1\.0|-by(-nc)?(-nd|-sa)?-[234]\.[05])?"
    r"|(a|l)?gpl(-[23](\.[01])?)?|gfdl|mpl-2\.0|ms-pl|ncsa|ofl-1\.1|epl-[12]\.0|ecl-2\.0|eupl-1\.[12]|postgresql)"
)
_NON_COMMERCIAL = re.compile(r"\bnc\b|non[- ]?commercial|research[- ]only|research purposes|academic", re.IGNORECASE)


def license_keys(license: str | None) -> dict[str, str]:
    """The source's license in the form the Hub accepts; unknown where the source names none."""
    if not license:
        return {"license": "unknown"}
    plain = license.strip().lower()
    if KNOWN_LICENSE.fullmatch(plain):
        return {"license": plain}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", plain).strip("-")}


def non_commercial(license: str | None) -> bool:
    """Whether the text of a license forbids commercial use."""
    return bool(license) and _NON_COMMERCIAL.search(license) is not None
