"""What is asked of a bundle on every device, whatever runs it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stc_export.spec.manifest import MANIFEST_NAME, manifest_to_text, read_manifest
from stc_export.world.render import Renderer
from stc_runtime import Model, StreamSession
from stc_runtime.goldens import Goldens, run_goldens

if TYPE_CHECKING:
    from stc_export.spec.manifest import GraphParity
    from stc_export.world.splits import Quiz
    from stc_runtime.backends.base import Backend

#: Longest answer: a letter and the end of the turn would do.
_ANSWER_TOKENS = 4


def bundle_for(bundle: Path, target: str, out: Path) -> Path:
    """Return a copy of a bundle that says it was built for a target: its graphs are the same for all."""
    copy = Path(shutil.copytree(bundle, out))
    manifest = replace(read_manifest(copy), target=target)
    (copy / MANIFEST_NAME).write_text(manifest_to_text(manifest), encoding="utf-8")
    return copy


def golden_rows(bundle: Path, backend: Backend) -> list[GraphParity]:
    """Run all goldens of all graphs of a bundle."""
    goldens = Goldens.open(bundle)
    rows: list[GraphParity] = []
    for graph in read_manifest(bundle).graphs:
        rows += run_goldens(goldens, graph.file, backend.open(bundle, graph), lambda _case, run: run())
    return rows


def failures(bundle: Path, rows: list[GraphParity]) -> list[str]:
    """Return what is out of tolerance, and the graphs that were not checked at all."""
    unchecked = {graph.file for graph in read_manifest(bundle).graphs} - {row.graph for row in rows}
    wrong = [
        f"{row.graph} ({row.case}) {output.output}: {output.max_rel:.2e} > {output.tolerance:.0e}"
        for row in rows
        for output in row.outputs
        if not output.passed
    ]
    return [*sorted(unchecked), *wrong]


def answers(bundle: Path, backend: Backend, quiz: Quiz) -> list[list[int]]:
    """Stream a clip with its questions, and return the greedy tokens of each answer."""
    found: list[list[int]] = []
    with StreamSession(Model.open(bundle, backend)) as stream:
        for number, frame in enumerate(Renderer(quiz.clip).frames()):
            stream.push(frame, number / quiz.clip.fps)
            found += [_tokens(stream, question.prompt) for question in quiz.questions if question.frame == number]
    return found


def _tokens(stream: StreamSession, prompt: str) -> list[int]:
    return [piece.token for piece in stream.ask(prompt, max_tokens=_ANSWER_TOKENS)]
