"""The documentation as text: pages, their code blocks and their tables."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def all_pages() -> list[Path]:
    """Every page of the documentation, those at the top level and the README of each folder included."""
    top = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    folders = [page for page in sorted(ROOT.glob("[a-z]*/README.md")) if page.parent != DOCS]
    return [*top, *sorted(DOCS.rglob("*.md")), *folders]


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """Fenced code blocks of a language, in order."""
    return [text for name, text in _FENCE.findall(read(page)) if name == language]


def prose(page: Path) -> str:
    """The page without its fenced code."""
    return _FENCE.sub("", read(page))


def table_rows(text: str) -> list[list[str]]:
    """Cells of every row of every table, headers and rules left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rules = [i for i, row in enumerate(rows) if set("".join(row)) <= set("-: ")]
    dropped = {*rules, *(i - 1 for i in rules)}
    return [row for i, row in enumerate(rows) if i not in dropped]


def code(cell: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)
