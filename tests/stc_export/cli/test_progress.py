from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import pytest

from stc_export.cli.progress import BarProgress, LineProgress, make_progress

if TYPE_CHECKING:
    from collections.abc import Callable


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def clock(*times: float) -> Callable[[], float]:
    return iter(times).__next__


def test_lines_one_per_stage_with_amount_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    with LineProgress(clock(0.0, 1.0, 2.0, 2.5)).stage("weights", 3_000_000, "B") as advance:
        advance(1_000_000)
        advance(2_000_000)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "weights: 3 MB in 2.5 s\n")


def test_lines_long_stage_says_so_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    with LineProgress(clock(0.0, 6.0, 11.0, 15.0, 21.5, 22.0)).stage("frames", 9, "frames") as advance:
        for _ in range(4):
            advance(1)
    assert capsys.readouterr().err.splitlines() == [
        "frames: 2 of 9 frames, 11 s so far, about 38 s left",
        "frames: 4 of 9 frames, 22 s so far, about 27 s left",
        "frames: 4 frames in 22.0 s",
    ]


@pytest.mark.parametrize(
    ("total", "told"),
    [
        (None, "clips: 2 clips, 20 s so far"),
        (2, "clips: 2 of 2 clips, 20 s so far"),
        (3, "clips: 2 of 3 clips, 20 s so far, about 10 s left"),
        (11, "clips: 2 of 11 clips, 20 s so far, about 90 s left"),
        (12, "clips: 2 of 12 clips, 20 s so far, about 2 min left"),
        (600, "clips: 2 of 600 clips, 20 s so far, about 1.7 h left"),
    ],
)
def test_lines_say_how_long_it_will_take_where_the_end_is_known(
    total: int | None, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with LineProgress(clock(0.0, 20.0, 30.0)).stage("clips", total, "clips") as advance:
        advance(2)
    assert capsys.readouterr().err.splitlines()[0] == told


def test_lines_failed_stage_does_not_claim_to_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="bad"), LineProgress().stage("trace"):
        raise ValueError("bad")
    assert capsys.readouterr().err == ""


def test_bars_stage_ends_as_a_line_and_bars_are_gone() -> None:
    terminal = Terminal()
    progress = BarProgress(terminal)
    with progress.stage("graphs [a]", 2, "graphs") as outer, progress.stage("weights", 10, "B") as inner:
        inner(10)
        outer(1)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert re.search(r"weights: 10 B in \d+\.\d s", text)
    assert re.search(r"graphs \[a\]: 1 graphs in \d+\.\d s\s*$", text)


def test_bars_after_clear_start_again_on_a_new_line() -> None:
    terminal = Terminal()
    progress = BarProgress(terminal)
    with progress.stage("frames", 2, "frames") as advance:
        advance(1)
        progress.clear()
        before = terminal.tell()
        terminal.write("an answer without line end")
        advance(1)
    assert terminal.getvalue()[before:].startswith("an answer without line end\n")


def test_bars_failed_stage_takes_its_bar_away_and_shows_the_cursor() -> None:
    terminal = Terminal()
    with pytest.raises(ValueError, match="bad"), BarProgress(terminal).stage("trace"):
        raise ValueError("bad")
    assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")
    assert "trace:" not in terminal.getvalue()


def test_bars_no_color_has_no_colour_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    colour = re.compile(r"\x1b\[[0-9;]*3[0-9;]*m")
    texts = []
    monkeypatch.setenv("TERM", "xterm-256color")
    for value in ("", "1"):
        monkeypatch.setenv("NO_COLOR", value)
        terminal = Terminal()
        with BarProgress(terminal).stage("frames", 2, "frames") as advance:
            advance(1)
        texts.append(terminal.getvalue())
    assert [bool(colour.search(text)) for text in texts] == [True, False]


@pytest.mark.parametrize(
    ("terminal", "term", "kind"),
    [(True, "xterm", BarProgress), (True, "dumb", LineProgress), (False, "", LineProgress)],
)
def test_make_progress_draws_bars_only_on_a_real_terminal(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, term: str, kind: type
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr("sys.stderr", Terminal() if terminal else io.StringIO())
    assert type(make_progress()) is kind
