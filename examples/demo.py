"""`make demo`: build the demo bundle, stream a real video through it, ask questions, and compare with no compression.

Every step is a command that you can type yourself; it is printed before it runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from real_videos import FetchError, fetch

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".cache" / "demo"
BUNDLE = WORK / "demo.stc"
FPS = "8"
QUESTIONS = ["--ask", "What is in front of the camera?", "--at", "4.0", "--ask", "What happened so far?"]


def main() -> int:
    WORK.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    try:
        video = fetch("cockatoo")
    except FetchError as error:
        print(f"error: {error.problem}\nfix: {error.fix}", file=sys.stderr)
        return error.exit_code
    say("1. A checkpoint becomes a bundle")
    command("build", "demo", "--out", str(BUNDLE), "--overwrite")
    say(f"2. The bundle watches {video.name} and answers ({FPS} frames per second)")
    watch = ["run", str(BUNDLE), str(video), "--fps", FPS, "--max-tokens", "16", *QUESTIONS]
    command(*watch)
    say("3. The same with every frame encoded fully and every visual token kept")
    compressed, dense = (report(*watch, "--policy", policy) for policy in ("adaptive", "off"))
    print(comparison(compressed, dense))
    print(f"\nAll of it took {time.perf_counter() - start:.0f} s. The bundle is {BUNDLE.relative_to(ROOT)}.")
    return 0


def say(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


def command(*arguments: str) -> None:
    print("$ stc-export " + " ".join(f'"{a}"' if " " in a else a for a in arguments), flush=True)
    subprocess.run([sys.executable, "-m", "stc_export", *arguments], check=True, cwd=ROOT)


def report(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "stc_export", *arguments, "--json"], check=True, cwd=ROOT, stdout=subprocess.PIPE
    )
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


def comparison(compressed: dict[str, Any], dense: dict[str, Any]) -> str:
    """Return a table of both runs; costs are medians per mode, weighted by how often it ran."""
    rows = [("", "adaptive", "off")]
    rows += [
        (f"frames {mode}", *(str(r["frames"][mode]) for r in (compressed, dense)))
        for mode in ("full", "selective", "skip")
    ]
    rows.append(("visual tokens in the LLM", *(f"{r['tokens']['visual_kept']:,}" for r in (compressed, dense))))
    for stage, text in (("vit", "ViT, ms per frame"), ("prefill", "LLM prefill, ms per frame")):
        costs = [per_frame(r, stage) for r in (compressed, dense)]
        rows.append((text, *(f"{cost:.1f}" for cost in costs)))
    return "\n".join(f"{name:<28}{a:>12}{b:>12}" for name, a, b in rows)


def per_frame(run: dict[str, Any], stage: str) -> float:
    """Median cost times count over all modes of a stage, per frame of the stream."""
    parts = [value for key, value in run["latency_ms"].items() if key.startswith(stage)]
    return float(sum(part["p50"] * part["n"] for part in parts) / run["frames"]["total"])


if __name__ == "__main__":
    sys.exit(main())
