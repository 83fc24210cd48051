"""The report page: whole, of one file, and the same figures as elsewhere."""

from __future__ import annotations

import base64
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import Page, Request, sync_playwright

from stc_export.pipeline.validate.frames import draw_frames, spread_out
from stc_export.pipeline.validate.html import html_report
from stc_export.pipeline.validate.page import Picture, Section, Table, render_page
from stc_export.pipeline.validate.plots import draw_plots
from stc_export.spec.policy import Policy, named_policies
from stc_export.spec.progress import Silent
from stc_export.validate.demo import quiz_clip
from stc_export.validate.meter import Energy
from stc_export.validate.types import Setting
from stc_export.world.script import write_clip
from stc_export.world.splits import ask_about
from tests.browser import find_chromium
from tests.stc_export.cli.results import VALIDATED
from tests.stc_export.pipeline.validate.validated import many

CLIP = quiz_clip(ask_about(write_clip("validation/0", 6), 2))
PAPER = Setting("paper", named_policies()["paper"])
#: Elements without an end tag.
_VOID = {"meta", "img"}


class Tags(HTMLParser):
    """Collects what is there, and checks that every tag is closed and no attribute is given twice."""

    def __init__(self) -> None:
        super().__init__()
        self.attributes: set[str] = set()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names)
        self.attributes |= set(names)
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name == "src"]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    return tags


def test_report_is_whole_and_refers_to_nothing_outside() -> None:
    plots = draw_plots(VALIDATED)
    page = html_report(VALIDATED, plots, [Picture("a frame", plots[0].png)])
    tags = read(page)
    assert tags.attributes <= {"lang", "charset", "name", "content", "http-equiv", "class", "data-label", "src", "alt"}
    assert not set(tags.tags) & {"script", "link", "iframe", "object", "a", "form"}
    assert "://" not in page
    assert "url(" not in page
    assert "@import" not in page
    start = "data:image/png;base64,"
    assert [base64.b64decode(one.removeprefix(start), validate=True) for one in tags.sources] == [plots[0].png] * 2
    for shown in ("-25.0 (-50.0 to -12.5)", "worse", "first token", "a cpu", "stc-export validate", "312 MB", "80.0"):
        assert shown in page
    assert "Energy: not measured; there is no counter." in page


def test_report_escapes_what_others_wrote() -> None:
    evil = '<script src="http://x">&'
    settings = tuple(replace(one, name=evil) for one in VALIDATED.settings)
    environment = replace(VALIDATED.environment, cpu=evil)
    bundle = replace(VALIDATED.bundle, model=evil)
    result = replace(VALIDATED, settings=settings, environment=environment, bundle=bundle, command=evil)
    page = html_report(result, frames=[Picture(evil, b"")])
    assert "script" not in read(page).tags
    assert page.count("&lt;script src=&#34;http://x&#34;&gt;&amp;") > 10


def test_report_leaves_out_sections_without_content() -> None:
    page = html_report(VALIDATED)
    assert "<h2>Frames</h2>" not in page
    assert "<h2>Accuracy and cost</h2>" not in page
    assert "<h2>Settings</h2>" in page


def test_report_tells_energy_and_where_it_ran() -> None:
    page = html_report(replace(VALIDATED, workers="ray", energy=Energy("measured", 1234.5, 7)))
    assert "while 7 clips were streamed, with everything else that ran on the machine: 1,234.5 J." in page
    assert "on a Ray cluster, whose machines may differ" in page


def test_front_of_the_table_is_that_of_accuracy_and_time() -> None:
    slow = replace(VALIDATED.settings[1], frame_mean_ms=50.0)
    page = html_report(replace(VALIDATED, settings=(*VALIDATED.settings, slow, replace(slow, frame_mean_ms=1.0))))
    cells = [
        line.split('data-label="on the front">')[1].split("<")[0]
        for line in page.splitlines()
        if 'on the front">' in line
    ]
    assert cells == ["yes", "no", "no", "yes"]


def test_page_names_the_column_of_each_cell() -> None:
    table = Table(("a", "b"), (("1", "2"),), (1,))
    page = render_page("x", [Section("y", ("z",), (table,))])
    assert '<td data-label="a">1</td><td data-label="b" class="number">2</td>' in page


@pytest.mark.parametrize(("count", "expected"), [(0, []), (1, [0]), (3, [0, 1, 2]), (4, [0, 2, 3]), (30, [0, 14, 29])])
def test_frames_are_drawn_of_three_settings_at_most(count: int, expected: list[int]) -> None:
    settings = [Setting(str(number), Policy()) for number in range(count)]
    assert [int(one.name) for one in spread_out(settings)] == expected


def test_frames_are_those_of_the_settings_but_for_the_baseline(tiny_bundle: Path) -> None:
    off = Setting("off", named_policies()["off"])
    (picture,) = draw_frames(tiny_bundle, (off, PAPER), CLIP, Silent())
    assert picture.caption.startswith("paper: frames of the first ")
    assert picture.png.startswith(b"\x89PNG")
    assert draw_frames(tiny_bundle, (off,), CLIP, Silent()) == ()


def check(page: Page, width: int) -> None:
    """Everything is inside the width of the window, and every picture is shown."""
    assert page.evaluate("document.documentElement.scrollWidth") == width
    pictures = page.locator("img")
    assert pictures.count() == 4
    for place in range(4):
        picture = pictures.nth(place)
        box = picture.bounding_box()
        assert picture.is_visible()
        assert picture.evaluate("one => one.complete && one.naturalWidth") > 600
        assert box is not None
        assert min(box["width"], box["height"]) > 200
    tables = [table.bounding_box() for table in page.locator("table").all()]
    assert len(tables) == 5
    for box in tables:
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["width"] > 200
    cells = page.locator("td").evaluate_all("all => all.filter(one => one.scrollWidth > one.clientWidth).length")
    assert cells == 0


@pytest.mark.network
def test_report_in_a_browser_fits_shows_everything_and_asks_for_nothing(tmp_path: Path) -> None:
    """At the width of a desktop and of a phone, light and dark, with scripts and without."""
    chromium, plots = find_chromium(tmp_path), draw_plots(many())
    report = tmp_path / "report.html"
    report.write_text(html_report(many(), plots, [Picture("a frame", plots[0].png)]), encoding="utf-8")
    requests: list[Request] = []
    said: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium.program, env={**chromium.environment}, args=["--no-sandbox", "--disable-gpu"]
        )
        for width, scheme, script in ((1280, "light", True), (400, "dark", True), (400, "light", False)):
            context = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=script
            )
            page = context.new_page()
            page.on("request", lambda request: requests.append(request))
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.goto(report.as_uri())
            check(page, width)
        browser.close()
    assert said == []
    assert {request.url.partition(",")[0] for request in requests} <= {report.as_uri(), "data:image/png;base64"}
    assert not [request for request in requests if request.failure]
