"""Messages: no lost f-prefix, every error in the tree that the documentation shows, two sentences each."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest

from stc_export.spec import errors
from tests.hygiene.sources import ROOT, module_files, module_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: ``{name}``, ``{a.b}``, ``{type(x)!r:>8}``: what only an f-string fills in. JSON has quotes after its brace.
FIELD = re.compile(r"\{[A-Za-z_][^{}\"']*\}")
ERRORS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.StcError)]
ROW = re.compile(r"^ {6}(\w+) *\((\w+)\) *(\d)", re.MULTILINE)


def lost_prefixes(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Texts with fields that nothing fills in, inside ``raise`` statements and calls of error classes."""
    for node in ast.walk(tree):
        is_error_call = isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Error")
        if not (isinstance(node, ast.Raise) or is_error_call):
            continue
        formatted = {
            id(call.func.value)
            for call in ast.walk(node)
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "format"
        }
        for part in ast.walk(node):
            if isinstance(part, ast.Constant) and isinstance(part.value, str) and id(part) not in formatted:
                yield from ((part.lineno, field) for field in FIELD.findall(part.value))


@pytest.mark.parametrize("file", module_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_messages_have_no_field_that_nothing_fills_in(file: Path) -> None:
    assert list(lost_prefixes(ast.parse(file.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('raise ValueError("size is {size}")', 1),
        ('raise ValueError(f"size is {size}")', 0),
        ('raise ValueError(f"size is {size}, " "expected {wanted.size!r}")', 1),
        ('raise ValueError("size is {}".format(size))', 0),
        ('raise ValueError("size is {size}".format(size=1))', 0),
        ('return BundleError("no {type(x)}", "fix {it}")', 2),
        ("raise ValueError('expected {\"a\": 1}')", 0),
        ('x = "a template {name}"', 0),
    ],
)
def test_lost_prefixes_are_found_in_errors_and_only_there(source: str, count: int) -> None:
    assert len(set(lost_prefixes(ast.parse(source)))) == count


def test_error_tree_in_the_documentation_is_the_tree_in_the_code() -> None:
    documented = {name: (base, int(code)) for name, base, code in ROW.findall(errors.__doc__ or "")}
    actual = {
        error.__name__: (error.__bases__[1].__name__, error.exit_code)
        for error in ERRORS
        if error is not errors.StcError
    }
    assert documented == actual


@pytest.mark.parametrize("file", module_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_error_classes_for_users_are_defined_in_one_module_only(file: Path) -> None:
    names = {error.__name__ for error in ERRORS}
    classes = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.ClassDef)]
    descendants = [c.name for c in classes if {ast.unparse(base).rpartition(".")[2] for base in c.bases} & names]
    assert descendants == [] or module_name(file) == errors.__name__


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_error_keeps_problem_and_fix_and_says_both(error: type[errors.StcError]) -> None:
    raised = error("It is wrong.", "Do this.")
    assert (raised.problem, raised.fix, str(raised)) == ("It is wrong.", "Do this.", "It is wrong. Do this.")
    assert raised.exit_code in {1, 2, 3, 4}
