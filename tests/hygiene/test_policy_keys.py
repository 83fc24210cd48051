"""What messages and help say of a policy's keys: each key that they name exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from stc_export.spec.policy import Policy

ROOT = Path(__file__).resolve().parents[2]
KEYS = {f"{section}.{key}" for section, values in asdict(Policy()).items() for key in values}
NAMED = re.compile(rf"(?<![\w./])(?:{'|'.join(asdict(Policy()))})\.[a-z_]+\b(?!\()")


def texts() -> Iterator[tuple[str, str]]:
    """All texts of our packages that are no names of modules, with the file that they are in."""
    for package in ("stc_export", "engines/stc_engines", "runtime/stc_runtime", "calib/stc_calib"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield str(path.relative_to(ROOT)), node.value


def test_every_key_of_a_policy_that_a_text_names_exists() -> None:
    found = [(path, name) for path, text in texts() for name in NAMED.findall(text)]
    assert len({name for _, name in found}) > 10
    assert [(path, name) for path, name in found if name not in KEYS] == []
