"""Measure the demo model on the frozen test set: in PyTorch, exported, and under the policies of the model card.

Build it first: `stc-export build demo --target cpu --out .cache/demo_model/demo.stc`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from answer import answer_quiz
from packing import Wording

from stc_export.cli.progress import LineProgress
from stc_export.demo.checkpoint import DEMO_MODEL
from stc_export.demo.tokenizer import build_tokenizer
from stc_export.spec.policy import Policy, PrunerPolicy, named_policies
from stc_export.validate.baselines import blind_prior
from stc_export.validate.demo import quiz_clip, run_quizzes
from stc_export.validate.scorers import answered
from stc_export.validate.statistics import accuracy, agreement, difference
from stc_export.validate.types import Answered, Outcome, TaskQuestion
from stc_export.world.questions import DETAIL, GROUPS, TEMPLATES
from stc_export.world.splits import TRAIN, Quiz, balanced, test_set
from stc_runtime.backends.ort import OrtBackend

ROOT = Path(__file__).resolve().parent.parent.parent
BUNDLE = ROOT / ".cache" / "demo_model" / "demo.stc"
RESULTS = ROOT / "benchmarks" / "results" / "demo-model.json"
#: Questions of each template from which the text-only prior learns.
_PRIOR_PER_TEMPLATE = 400


def policies() -> dict[str, Policy]:
    """Return the settings of the card: nothing, each part of the paper's, all of it, and random tokens at its price."""
    known = named_policies()
    off, paper = known["off"], known["paper"]
    return {
        "off": off,
        "cacher": replace(paper, pruner=off.pruner),
        "pruner": replace(off, pruner=paper.pruner),
        "paper": paper,
        "paper, random tokens": replace(paper, pruner=PrunerPolicy(method="random", keep=paper.pruner.keep)),
        "adaptive": known["adaptive"],
        "fast": known["fast"],
    }


def main(
    bundle: Annotated[Path, typer.Option(help="The demo model, built for the CPU.")] = BUNDLE,
    out: Annotated[Path, typer.Option(help="Where the results go.")] = RESULTS,
    clips: Annotated[int, typer.Option(help="Only so many clips; 0 for all.")] = 0,
    only: Annotated[list[str] | None, typer.Option(help="Measure this setting anew, keep the rest.")] = None,
) -> None:
    """Answer the test set under every setting and write counts, intervals and every single answer."""
    quizzes = test_set()[: clips or None]
    if only:
        again(bundle, out, quizzes, only)
        return
    torch.set_num_threads(os.cpu_count() or 1)
    reference = _torch_answers(quizzes, watch=True)
    outcomes = _outcomes(bundle, quizzes, policies())
    dense = outcomes["off"].answers
    document = {
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {name: version(name) for name in ("torch", "transformers", "onnxruntime", "numpy")},
        "clips": len(quizzes),
        "questions": len(reference),
        "torch": _summary(reference),
        "text_only": {
            "model": asdict(accuracy(_torch_answers(quizzes, watch=False))),
            "prior": asdict(accuracy(blind_prior(balanced(TRAIN, _PRIOR_PER_TEMPLATE), quizzes))),
        },
        "exported_equals_torch": agreement(dense, reference),
        "policies": {name: _outcome(outcome, dense) for name, outcome in outcomes.items()},
        "random_against_paper_detail": asdict(
            difference(*(_of(outcomes[name].answers, DETAIL) for name in ("paper, random tokens", "paper")))
        ),
        "answers": {"right": _row(reference, "right"), "torch": _row(reference, "given")}
        | {name: _row(outcome.answers, "given") for name, outcome in outcomes.items()},
    }
    _write(document, out)


def again(bundle: Path, out: Path, quizzes: Sequence[Quiz], names: Sequence[str]) -> None:
    """Measure some settings anew, and compare them with the answers of ``off`` that the results hold."""
    document = json.loads(out.read_text(encoding="utf-8"))
    dense = [
        answered(quiz.clip.name, place, question, letter)
        for (quiz, place, question), letter in zip(_asked(quizzes), document["answers"]["off"], strict=True)
    ]
    for name, outcome in _outcomes(bundle, quizzes, {name: policies()[name] for name in names}).items():
        document["policies"][name] = _outcome(outcome, dense)
        document["answers"][name] = _row(outcome.answers, "given")
    _write(document, out)


def _asked(quizzes: Sequence[Quiz]) -> Iterator[tuple[Quiz, int, TaskQuestion]]:
    for quiz in quizzes:
        for place, question in enumerate(quiz_clip(quiz).questions):
            yield quiz, place, question


def _write(document: dict[str, Any], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    typer.echo(table(document))


def _outcomes(bundle: Path, quizzes: Sequence[Quiz], settings: Mapping[str, Policy]) -> dict[str, Outcome]:
    """Run one policy per core, each on one thread."""
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        runs = [pool.submit(_run, bundle, policy, quizzes) for policy in settings.values()]
        return {name: run.result() for name, run in zip(settings, runs, strict=True)}


def _run(bundle: Path, policy: Policy, quizzes: Sequence[Quiz]) -> Outcome:
    return run_quizzes(bundle, policy, quizzes, LineProgress(), OrtBackend(threads=1))


def table(document: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    lines = ["| setting | all | " + " | ".join(GROUPS) + " | against off |", "|---|" + "---|" * (len(GROUPS) + 2)]
    rows = {"PyTorch": document["torch"], **document["policies"]}
    for name, row in rows.items():
        cells = [_cell(row["all"]), *(_cell(row["groups"][group]) for group in GROUPS)]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {_gain(row.get('against_off'))} |")
    return "\n".join(lines)


def _cell(interval: dict[str, float]) -> str:
    return f"{100 * interval['value']:.1f} [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"


def _gain(interval: dict[str, float] | None) -> str:
    return "" if interval is None else _cell(interval)


def _torch_answers(quizzes: Sequence[Quiz], *, watch: bool) -> list[Answered]:
    from transformers import LlavaOnevisionForConditionalGeneration

    model = LlavaOnevisionForConditionalGeneration.from_pretrained(DEMO_MODEL, dtype=torch.float32).eval()
    wording = Wording(build_tokenizer())
    return [
        answered(quiz.clip.name, place, quiz_clip(quiz).questions[place], given)
        for quiz in quizzes
        for place, given in enumerate(answer_quiz(model, wording, quiz, watch=watch))
    ]


def _of(answers: Sequence[Answered], group: str) -> list[Answered]:
    return [answer for answer in answers if answer.group == group]


def _summary(answers: Sequence[Answered]) -> dict[str, Any]:
    return {
        "all": asdict(accuracy(answers)),
        "groups": {group: asdict(accuracy(_of(answers, group))) for group in GROUPS},
        "templates": {
            t.name: asdict(accuracy([a for a in answers if a.template == t.name]))
            for t in TEMPLATES
            if any(a.template == t.name for a in answers)
        },
    }


def _outcome(outcome: Outcome, dense: Sequence[Answered]) -> dict[str, Any]:
    groups = {group: asdict(difference(_of(outcome.answers, group), _of(dense, group))) for group in GROUPS}
    return _summary(outcome.answers) | {
        "against_off": asdict(difference(outcome.answers, dense)),
        "groups_against_off": groups,
        "work": asdict(outcome.work),
    }


def _row(answers: Sequence[Answered], what: str) -> str:
    return "".join(getattr(answer, what) or "-" for answer in answers)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    typer.run(main)
