"""Nothing is unpickled or unpacked: no module of the packages has what could do it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.hygiene.sources import ROOT, module_files

MODULES = {"bz2", "dill", "gzip", "joblib", "lzma", "marshal", "pickle", "shelve", "tarfile", "yaml", "zipfile", "zlib"}
CALLS = {"eval", "exec", "np.load", "numpy.load", "torch.load", "shutil.unpack_archive", "np.fromregex"}


def dangers(tree: ast.AST) -> set[str]:
    """Imports of such modules and calls of such functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module).partition(".")[0]} & MODULES
        elif isinstance(node, ast.Call):
            found |= {ast.unparse(node.func)} & CALLS
    return found


@pytest.mark.parametrize("file", module_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_module_unpickles_and_unpacks_nothing(file: Path) -> None:
    assert dangers(ast.parse(file.read_text(encoding="utf-8"))) == set()


@pytest.mark.parametrize("source", ["import pickle", "from zipfile import ZipFile", "x = np.load(f)", "eval('1')"])
def test_dangers_are_found(source: str) -> None:
    assert len(dangers(ast.parse(source))) == 1
