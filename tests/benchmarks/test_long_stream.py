"""A stream of 10,000 frames needs no more memory at its end than at its beginning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ten_thousand_frames_grow_memory_by_less_than_one_percent(tiny_bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "long_stream.py")]
    subprocess.run(
        [*command, "--bundle", str(tiny_bundle), "--frames", "10000", "--results", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    (file,) = tmp_path.glob("long-stream-*.json")
    found = json.loads(file.read_text())
    assert len(found["frame_ms"]) == 10_300
    assert {"f", "s"} <= set(found["modes"])
    memory = found["anonymous_bytes"]
    assert len(memory) == 101
    assert max(memory) / memory[0] - 1 < 0.01
