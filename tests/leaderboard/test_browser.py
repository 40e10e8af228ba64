"""The pages in a real browser: sorting, filters, addresses, narrow screens, files without a server, and hostile strings.

Needs Debian's `chromium-headless-shell` (or another Chromium on the path) and the package `playwright` of the extra `dev`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_condense.leaderboard.entries import write_file
from hf_condense.leaderboard.place import Place, open_place
from hf_condense.leaderboard.serve import serving
from hf_condense.leaderboard.site import build
from tests.leaderboard.hostile import SCRIPTS, hostile
from tests.leaderboard.synthetic import Maker, make_board, write_large_board, write_small_board

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
)  # fmt: skip
SHOWN = "section.tab.shown > div.scroll:first-of-type tbody tr"  # of the first table


@pytest.fixture(scope="module")
def browser() -> Iterator:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium-headless-shell")
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=path, args=list(OPTIONS))
        yield running
        running.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    write_small_board(folder / "board", methods=9, sources=1)
    return build(open_place(folder / "board"), folder / "site").folder


class Watched:
    """A page with everything that it must not do: dialogs, errors, requests off the host."""

    def __init__(self, browser, **context) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.dialogs, self.errors, self.requests = [], [], []
        self.page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("request", lambda request: self.requests.append(request.url))

    def strangers(self, *starts: str) -> list[str]:
        return [url for url in self.requests if not url.startswith(starts)]


@pytest.fixture
def watched(browser):
    made = []

    def open_one(**context) -> Watched:
        made.append(Watched(browser, **context))
        return made[-1]

    yield open_one
    for one in made:
        one.context.close()


def column(page, name: str) -> list[str]:
    return [text.strip() for text in page.locator(f"{SHOWN} {name}").all_inner_texts()]


def numbers(page, name: str) -> list[float]:
    return [float(text.split()[0].replace("−", "-")) for text in column(page, name) if text]


def test_rows_are_sorted_by_mouse_and_by_keyboard(watched, site):
    page = watched().page
    page.goto(f"file://{site}/tasks/digits-ipc10.html")
    head = page.locator("section.shown table.rows").first.locator("th[data-sort=difference]")
    listed = column(page, "th.method a")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    found = numbers(page, "td.delta")
    assert found == sorted(found, reverse=True) and len(found) > 5
    page.keyboard.press("Enter")  # the button has the focus
    assert head.get_attribute("aria-sort") == "ascending"
    assert numbers(page, "td.delta") == sorted(found)
    page.locator("section.shown table.rows").first.locator("th[data-sort=method] button").focus()
    page.keyboard.press("Space")
    names = [name.lower() for name in column(page, "th.method a")]
    assert names == sorted(names) and sorted(listed) == sorted(column(page, "th.method a"))
    assert head.get_attribute("aria-sort") is None


def test_a_filter_keeps_what_fits_and_always_random(watched, site):
    page = watched().page
    page.goto(f"file://{site}/tasks/digits-ipc10.html")
    page.get_by_role("searchbox").fill("edc")
    visible = page.locator(f"{SHOWN}:visible")
    names = [visible.nth(i).locator("th a").inner_text() for i in range(visible.count())]
    assert sorted(names) == ["EDC", "Random real images"]
    page.get_by_role("searchbox").fill("")
    page.locator(".controls select").first.select_option("below")
    assert set(filter(None, (visible.nth(i).get_attribute("data-verdict") for i in range(visible.count())))) == {
        "below"
    }
    assert page.locator(f"{SHOWN}.random:visible").count() == 1
    assert "of" in page.locator(".count").inner_text()


def test_an_address_opens_what_it_names_and_follows_what_is_asked(watched, site):
    page = watched().page
    page.goto(f"file://{site}/tasks/digits-ipc10.html#stored-resnet18?q=r&sort=worth&down=1")
    assert page.locator("section.tab:visible").get_attribute("id") == "stored-resnet18"
    assert page.get_by_role("searchbox").input_value() == "r"
    assert page.locator("section.shown th[data-sort=worth]").first.get_attribute("aria-sort") == "descending"
    page.locator("nav.tabs a", has_text="online, convnet").click()
    assert page.url.endswith("#online-convnet?q=r&sort=worth&down=1")
    page.goto(f"file://{site}/tasks/digits-ipc10.html#%E0%A4%A?q=%E0%A4%A&sort=__proto__&verdict=constructor")
    assert page.locator("section.tab:visible").count() == 1  # nonsense opens the first part


def test_without_the_script_the_text_holds_everything(watched, site):
    plain, scripted = watched(java_script_enabled=False).page, watched().page
    for page in (plain, scripted):
        page.goto(f"file://{site}/tasks/digits-ipc10.html")
    assert plain.locator("section.tab:visible").count() == plain.locator("section.tab").count() == 7
    assert plain.locator("table.rows tbody tr:visible").count() == scripted.locator("table.rows tbody tr").count()
    text = plain.inner_text("main")
    for name in ("EDC", "SRe2L", "Noise", "Random real images"):
        assert name in text
    for verdict in ("▲ above random", "= no different", "▼ below random", "reference"):
        assert verdict in text


@pytest.mark.parametrize(
    "name", ["index", "tasks/digits-ipc10", "plots/digits-ipc10", "methods/index", "about", "submit"]
)
def test_a_narrow_screen_does_not_scroll_sideways(watched, site, name):
    page = watched(viewport={"width": 390, "height": 844}).page
    page.goto(f"file://{site}/{name}.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    if name.startswith("tasks"):
        row = page.locator(SHOWN).first
        for cell in (".verdict", ".delta", ".bar"):
            box = row.locator(cell).first.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= 390
        assert row.locator("td[data-label=Bytes]").is_hidden()
        row.locator("summary").click()
        assert row.locator("td[data-label=Bytes]").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_every_page_of_a_result_fits_a_narrow_screen(watched, site):
    page = watched(viewport={"width": 390, "height": 844}).page
    for path in sorted((site / "methods").glob("[0-9a-f]*.html"))[::12]:
        page.goto(f"file://{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path.name


def test_tips_show_on_focus_and_go_with_escape(watched, site):
    page = watched().page
    page.goto(f"file://{site}/tasks/digits-ipc10.html")
    head = page.locator("section.shown th[data-sort=worth] button").first
    head.focus()
    assert "random real images" in page.get_by_role("tooltip").inner_text()
    assert head.get_attribute("aria-describedby") == "tip"
    page.keyboard.press("Escape")
    assert page.get_by_role("tooltip").count() == 0


def test_the_site_works_from_files_and_from_a_server_without_an_error_or_a_request_elsewhere(watched, site):
    with serving(site) as (address, _):
        for start in (f"file://{site}/", address):
            one = watched()
            for name in ("index.html", "tasks/digits-ipc10.html", "plots/digits-ipc1.html", "about.html"):
                one.page.goto(start + name)
                assert one.page.evaluate("getComputedStyle(document.querySelector('header')).display") == "flex"
            assert not one.strangers(start) and not one.errors and not one.dialogs


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_a_contrast_of_four_and_a_half(watched, site, scheme):
    page = watched(color_scheme=scheme).page
    page.goto(f"file://{site}/tasks/digits-ipc10.html")
    pairs = page.evaluate(
        """() => {
        const paper = (e) => { for (; e; e = e.parentElement) {
            const c = getComputedStyle(e).backgroundColor; if (c !== 'rgba(0, 0, 0, 0)') return c; } };
        return [...document.querySelectorAll('main *')].filter((e) => e.checkVisibility() && !e.closest('svg') &&
            [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()))
            .map((e) => [getComputedStyle(e).color, paper(e), e.textContent.trim().slice(0, 40)]); }"""
    )
    assert len(pairs) > 100
    for ink, paper, text in pairs:
        assert contrast(ink, paper) >= 4.5, (ink, paper, text)


def contrast(one: str, other: str) -> float:
    def light(color: str) -> float:
        parts = [int(part) / 255 for part in color.split("(")[1].rstrip(")").split(",")[:3]]
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_hostile_strings_show_no_dialog_and_ask_no_other_host(watched, tmp_path):
    maker = Maker(make_board(ipc=(1,)))
    made = [hostile(maker.result(f"x{i}"), i) for i in range(len(SCRIPTS))]
    for result in (*maker.baselines(), *made):
        write_file(tmp_path, result)
    site = build(Place(tmp_path, maker.board), tmp_path / "site").folder
    with serving(site) as (address, _):
        one = watched()
        for name in (
            "index",
            "methods/index",
            "tasks/digits-ipc1",
            "plots/digits-ipc1",
            *(f"methods/{r.id}" for r in made),
        ):
            one.page.goto(f"{address}{name}.html#{SCRIPTS[0]}?q={SCRIPTS[1]}")
            for head in one.page.locator("th button:visible").all()[:6]:
                head.click()
            for link in one.page.locator("svg a").all()[:4]:
                link.focus()
        assert not one.dialogs and not one.errors
        assert not one.strangers(address)
        one.page.goto(f"{address}tasks/digits-ipc1.html")
        assert one.page.locator("th.method a", has_text="<script>alert(1)</script>").first.is_visible()


def test_the_policy_stops_what_a_page_would_ever_let_through(watched, tmp_path, site):
    """The second fence: markup that is put into a page by hand neither runs nor loads."""
    broken = Path(shutil.copytree(site, tmp_path / "site"))
    page = broken / "about.html"
    evil = "<script>alert(1)</script><img src='https://evil.example/a.png' onerror='alert(2)'><base href='https://evil.example/'>"
    page.write_text(
        page.read_text(encoding="utf-8").replace("<h2>Weaknesses", f"{evil}<h2>Weaknesses"), encoding="utf-8"
    )
    with serving(broken) as (address, _):
        one = watched()
        one.page.goto(f"{address}about.html")
        one.page.wait_for_timeout(200)
        assert not one.dialogs and len(one.errors) >= 3
        assert one.page.evaluate("document.images[0].naturalWidth") == 0
        assert one.page.locator("header a").first.evaluate("a => a.href").startswith(address)


def test_over_two_hundred_rows_the_first_two_hundred_are_shown_and_a_filter_finds_the_rest(watched, tmp_path):
    board = write_large_board(tmp_path, 500, sources=1, ipc=(10,))
    site = build(Place(tmp_path, board), tmp_path / "site", pictures=False).folder
    page = watched().page
    started = time.perf_counter()
    page.goto(f"file://{site}/tasks/digits-ipc10.html", wait_until="commit")
    page.locator(SHOWN).first.wait_for()
    first_row = time.perf_counter() - started
    assert first_row < 8  # 1.5 s on an idle machine
    page.wait_for_load_state("load")
    visible = page.locator(f"{SHOWN}:visible")
    assert visible.count() == 200
    hidden = page.locator("section.shown table.rows").first.locator("tbody.more tr th a").last.inner_text()
    page.get_by_role("searchbox").fill(hidden)
    assert 2 <= visible.count() < 20
    page.get_by_role("searchbox").fill("")
    page.get_by_role("button", name="Show all").first.click()
    assert visible.count() > 250
    assert (site / "index.html").stat().st_size < 300_000
