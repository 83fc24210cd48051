"""The demo runs in a checkout where nothing ran before; only the building of the bundle is left out."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "examples" / "demo.py"


def test_demo_answers_compares_and_leaves_a_picture(
    demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("demo", FILE)
    assert spec is not None
    assert spec.loader is not None
    demo: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    run = demo.command

    def command(module: str, *arguments: str) -> None:
        if arguments[0] != "build":
            run(module, *arguments)
            return
        out = tmp_path / arguments[arguments.index("--out") + 1]
        assert out.parent.is_dir(), "build asks for it"
        shutil.copytree(demo_bundle, out)

    monkeypatch.setattr(demo, "command", command)
    assert demo.main() == 0
    lines = capsys.readouterr().out.splitlines()
    asked = [line for line in lines if line.split(maxsplit=1)[:1] and line.split()[0].endswith("s") and "?" in line]
    assert len(asked) == 8
    assert sum("(wrong)" not in line for line in asked) >= 6
    full = next(line.split()[-2:] for line in lines if line.startswith("frames full"))
    assert int(full[0]) < int(full[1])
    assert (tmp_path / ".cache" / "demo" / "tokens.png").stat().st_size > 10_000
