from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from stc_export.cli.inspect import ports_text
from stc_export.cli.main import main
from stc_export.spec.manifest import TensorSpec
from tests.stc_export.pipeline.small_bundle import write_small_bundle

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_small_bundle(tmp_path / "tiny.stc")


def test_inspect_whole_bundle_exits_0_and_shows_its_interfaces(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(bundle)]) == 0
    text = capsys.readouterr().out
    assert "vit/gate  vit.onnx  6 B\n  in   features float32 [T, 32]\n  out  features float32 [T, 32]" in text
    assert "weights/vit.bin   10.2 kB  cacher_gate/default, vit/gate" in text
    assert "1,234,567 parameters, random weights: answers mean nothing" in text
    assert "3 layers, T = 25, C = 32, M = 9" in text
    assert "10.2 kB of weights, 5 kB of state; its process: about 90 MB resident" in text
    assert text.endswith("All listed files are as the manifest says.\n")


def test_inspect_broken_bundle_exits_1_and_names_what_is_broken(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / "vit.onnx").unlink()
    (bundle / "embed.bin").write_bytes(b"")
    (bundle / "new\x1b.txt").write_bytes(b"")
    assert main(["inspect", str(bundle)]) == 1
    text = capsys.readouterr().out
    assert "missing   vit.onnx\naltered   embed.bin: 0 bytes, expected 64\nunlisted  new.txt\n" in text
    assert "BROKEN: 2 of 6 files are missing or altered." in text


def test_inspect_broken_bundle_json_has_the_report_and_exits_1(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (bundle / "vit.onnx").unlink()
    assert main(["inspect", str(bundle), "--json"]) == 1
    document = json.loads(capfd.readouterr().out)
    assert (document["ok"], document["missing"], document["bundle"]) == (False, ["vit.onnx"], str(bundle))


def test_inspect_no_bundle_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    assert "is not a bundle" in capsys.readouterr().err


def test_ports_text_of_many_layers_is_one_line_per_kind_and_shape() -> None:
    layers = [TensorSpec(f"{kind}_{i}_in", "float32", ("T", 8)) for i in range(26) for kind in ("key", "value")]
    assert ports_text([TensorSpec("indices", "int64", ("R",)), *layers, TensorSpec("x_0_in", "uint8", (3,))]) == [
        "indices int64 [R]",
        "key_{0..25}_in float32 [T, 8]",
        "value_{0..25}_in float32 [T, 8]",
        "x_0_in uint8 [3]",
    ]
