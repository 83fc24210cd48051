"""`make demo`: build the demo model, stream a clip that it has never seen, ask, and compare with no compression.

Every step is a command that you can type yourself; it is printed before it runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WORK = Path(".cache") / "demo"
BUNDLE, CLIP, PICTURE = WORK / "demo.stc", WORK / "clip", WORK / "tokens.png"
#: A clip of the validation split: not in the training data.
NAME = "validation/7"


def main() -> int:
    start = time.perf_counter()
    (ROOT / WORK).mkdir(parents=True, exist_ok=True)
    say("1. A checkpoint becomes a bundle")
    command("stc_export", "build", "demo", "--out", str(BUNDLE), "--overwrite")
    say("2. A clip that the model has never seen, with questions about it")
    command("stc_export.world", "clip", NAME, "--out", str(CLIP), "--overwrite")
    quiz = json.loads((ROOT / CLIP / "questions.json").read_text(encoding="utf-8"))
    say("3. The bundle watches it and answers: with compression, then without")
    pace = ["--fps", str(quiz["fps"]), "--max-tokens", "2"]
    watch = ["run", str(BUNDLE), str(CLIP / "clip.mkv"), *pace, *asking(quiz)]
    adaptive = report(*watch, "--policy", "adaptive", "--picture", str(PICTURE))
    dense = report(*watch, "--policy", "off")
    print("\n" + answers(quiz, adaptive, dense))
    print("\n" + comparison(adaptive, dense))
    print(f"\n{PICTURE} shows what was computed and kept. All of it took {time.perf_counter() - start:.0f} s.")
    return 0


def say(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


def command(module: str, *arguments: str) -> None:
    program = "stc-export" if module == "stc_export" else f"python -m {module}"
    print(f"$ {program} {shown(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, cwd=ROOT)


def report(*arguments: str) -> dict[str, Any]:
    print(f"$ stc-export {shown(arguments)} --json", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "stc_export", *arguments, "--json"], check=True, cwd=ROOT, stdout=subprocess.PIPE
    )
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


def shown(arguments: tuple[str, ...]) -> str:
    """Return the arguments as they are typed, the questions abridged."""
    parts, rest = [], iter(arguments)
    for part in rest:
        if part in {"--ask", "--at"}:
            next(rest)
        else:
            parts.append(part)
    asked = arguments.count("--ask")
    return " ".join([*parts, *([f"--ask ... --at ... ({asked} questions)"] if asked else [])])


def asking(quiz: dict[str, Any]) -> list[str]:
    return [part for q in quiz["questions"] for part in ("--ask", q["prompt"], "--at", str(q["at_s"]))]


def answers(quiz: dict[str, Any], adaptive: dict[str, Any], dense: dict[str, Any]) -> str:
    """Return a table of the questions, the right answers and what both runs said."""
    lines = [f"{'at':>6}  {'question':<36}{'right':<12}{'adaptive':<16}off"]
    for question, ours, theirs in zip(quiz["questions"], adaptive["answers"], dense["answers"], strict=True):
        options = dict(zip("ABCD", question["options"], strict=True))
        said = [f"{options.get(run['text'].strip()[:1], run['text'])}" for run in (ours, theirs)]
        right = options[question["right"]]
        marks = [text if text == right else f"{text} (wrong)" for text in said]
        lines.append(f"{question['at_s']:5.1f}s  {question['question']:<36}{right:<12}{marks[0]:<16}{marks[1]}")
    return "\n".join(lines)


def comparison(adaptive: dict[str, Any], dense: dict[str, Any]) -> str:
    """Return a table of both runs; costs are medians per mode, weighted by how often it ran."""
    rows = [("", "adaptive", "off")]
    rows += [
        (f"frames {mode}", *(str(run["frames"][mode]) for run in (adaptive, dense)))
        for mode in ("full", "selective", "skip")
    ]
    rows.append(("visual tokens in the LLM", *(f"{run['tokens']['visual_kept']:,}" for run in (adaptive, dense))))
    for stage, text in (("vit", "ViT, ms per frame"), ("prefill", "LLM prefill, ms per frame")):
        rows.append((text, *(f"{per_frame(run, stage):.2f}" for run in (adaptive, dense))))
    return "\n".join(f"{name:<28}{a:>12}{b:>12}" for name, a, b in rows)


def per_frame(run: dict[str, Any], stage: str) -> float:
    """Median cost times count over all modes of a stage, per frame of the stream."""
    parts = [value for key, value in run["latency_ms"].items() if key.startswith(stage)]
    return float(sum(part["p50"] * part["n"] for part in parts) / run["frames"]["total"])


if __name__ == "__main__":
    sys.exit(main())
