"""Pages agree with each other and with the repository: links, files, commands, flags, generated pages."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from stc_export.cli.app import make_app
from stc_export.spec import errors
from stc_runtime import StreamSession
from tests.docs.pages import DOCS, ROOT, all_pages, page_id, prose, read

LINK = re.compile(r"\]\(([^)\s]+)\)")
#: What looks like a file of this repository in running text or code; ``<name>`` behind it makes it a pattern.
_FOLDERS = "stc_export|engines|runtime|calib|tests|docs|examples|benchmarks"
REPOSITORY_FILE = re.compile(
    rf"(?<![\w/.<-])((?:{_FOLDERS})/[\w./*-]*[\w*]|[A-Z]\w+\.md|pyproject\.toml|constraints\.txt)(?![\w/]*<)"
)
COMMAND = re.compile(r"stc-export +([a-z]+)([^`\n|]*)")
CLI_PAGE, ERRORS_PAGE = DOCS / "cli.md", DOCS / "errors.md"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate: Any = load(DOCS / "generate.py")


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def flags_by_command() -> dict[str, set[str]]:
    commands: Any = typer.main.get_command(make_app())
    return {
        name: {flag for parameter in command.params for flag in parameter.opts} | {"--help"}
        for name, command in commands.commands.items()
    }


@pytest.mark.parametrize("page", all_pages(), ids=page_id)
def test_link_to_a_page_or_heading_resolves(page: Path) -> None:
    broken = []
    for link in LINK.findall(prose(page)):
        if "://" in link or link.startswith("mailto:"):
            continue
        target, _, heading = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        headings = re.findall(r"^#+ (.+)$", prose(file), re.MULTILINE) if heading and file.is_file() else []
        if not file.exists() or (heading and heading not in map(slug, headings)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", all_pages(), ids=page_id)
def test_file_that_a_page_mentions_exists(page: Path) -> None:
    text = re.sub(r"\w+://\S+", "", read(page))
    named = sorted(set(REPOSITORY_FILE.findall(text)))
    assert [name for name in named if not any(any(base.glob(name)) for base in (ROOT, page.parent))] == []


@pytest.mark.parametrize("page", all_pages(), ids=page_id)
def test_command_and_flag_that_a_page_mentions_exist(page: Path) -> None:
    known = flags_by_command()
    unknown = []
    for command, rest in COMMAND.findall(read(page)):
        flags = set(re.findall(r"(?<!\w)--[a-z][a-z-]*", rest))
        unknown += [f"{command} {flag}" for flag in sorted(flags - known.get(command, set()))]
    assert unknown == []


@pytest.mark.parametrize("page", all_pages(), ids=page_id)
def test_make_target_that_a_page_mentions_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", read(page), re.MULTILINE)) <= targets


def test_index_lists_every_page() -> None:
    linked = {(DOCS / link).resolve() for link in LINK.findall(read(DOCS / "README.md"))}
    assert set(DOCS.rglob("*.md")) - {DOCS / "README.md"} <= linked


def test_errors_page_is_current() -> None:
    assert read(ERRORS_PAGE) == generate.errors_page(), "run make docs"


def test_errors_page_covers_every_class_and_exit_code() -> None:
    classes = {
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.StcError)
    }
    assert set(generate.TYPICAL) == classes - {errors.StcError}
    assert {error.exit_code for error in generate.TYPICAL} <= set(generate.EXIT_CODES)


def test_errors_page_shows_what_a_closed_session_says(tiny_bundle: Path) -> None:
    session = StreamSession.open(tiny_bundle)
    session.close()
    with pytest.raises(errors.SessionStateError) as found:
        session.reset()
    assert f"error: {found.value.problem}\nfix: {found.value.fix}\n" in read(ERRORS_PAGE)


def test_cli_page_is_current() -> None:
    """Word for word on the Python version that it is written on; elsewhere typer may lay the text out differently."""
    if sys.version_info[:2] == generate.PYTHON:
        assert read(CLI_PAGE) == generate.cli_page(), "run make docs"
    for name, flags in flags_by_command().items():
        section = read(CLI_PAGE).partition(f"## stc-export {name}\n")[2].partition("\n## ")[0]
        assert {flag for flag in flags if flag.startswith("--")} == set(
            re.findall(r"^ +(?:-h, )?(--[a-z-]+)", section, re.M)
        )
