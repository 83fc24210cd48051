"""Train the demo model from nothing: `python examples/demo_model/train.py`. Interrupt it and run it again to go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from answer import answer_tokens
from clips import Store
from language import train_language
from packing import Wording
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from shape import DIMS, new_model
from state_io import load_run
from tower import TokenHeads, train_tower

from stc_engines.detect import count_cores
from stc_export.demo.checkpoint import save_checkpoint
from stc_export.demo.tokenizer import build_tokenizer
from stc_export.world.questions import GROUPS
from stc_export.world.splits import validation_set

ROOT = Path(__file__).resolve().parent.parent.parent
app = typer.Typer(add_completion=False, help=__doc__)
RunOption = Annotated[Path, typer.Option(help="Where checkpoints and encoded clips are kept (about 1 GB).")]


@app.command()
def main(
    run: RunOption = ROOT / ".cache" / "demo_model",
    out: Annotated[Path, typer.Option(help="Where the checkpoint goes.")] = ROOT / "stc_export" / "demo" / "model",
    tower_steps: Annotated[int, typer.Option(help="Steps of the first stage, of 64 frames.")] = 800,
    clips: Annotated[int, typer.Option(help="Training clips of the second stage.")] = 2200,
    language_steps: Annotated[int, typer.Option(help="Steps of the second stage: of 4 clips, at the end of 8.")] = 2400,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Tower on single frames, then the LLM on the tower's tokens; then write the checkpoint."""
    threads = count_cores()
    workers = max(threads - 1, 1)  # that draw
    torch.set_num_threads(threads)
    model = new_model().to(device)
    store, held_out = Store(run / "train"), Store(run / "validation")
    with torch.device(device):  # what is made on the way
        with bar("tower", tower_steps) as report:
            train_tower(model, run / "tower", tower_steps, workers, report)
        model.eval()
        torch.set_num_threads(workers)
        with bar("encode", clips) as report:
            store.encode(model, [f"train/{number}" for number in range(clips)], workers, report)
        quizzes = validation_set()
        with bar("encode validation", len(quizzes)) as report:
            held_out.encode(model, [quiz.clip.name for quiz in quizzes], workers, report)
        torch.set_num_threads(threads)
        with bar("language", language_steps) as report:
            train_language(model, store, run / "language", language_steps, report)
        typer.echo(validate(model, held_out))
    save_checkpoint(model.half().cpu(), out, DIMS)


def load_trained(run: Path) -> Any:
    """Return the model with what both stages have learned so far."""
    model = new_model()
    tower = {"tower": model.model.vision_tower, "projector": model.model.multi_modal_projector, "heads": TokenHeads()}
    load_run(run / "tower", tower, [])
    newline = torch.nn.ParameterList([model.model.image_newline])
    load_run(run / "language", {"llm": model.model.language_model, "newline": newline}, [])
    return model.eval()


def validate(model: Any, store: Store) -> str:
    """Return the accuracy on the validation questions, per group and per template."""
    wording = Wording(build_tokenizer())
    right, asked = Counter[str](), Counter[str]()
    for number, quiz in enumerate(validation_set()):
        tokens = torch.from_numpy(store[number].tokens).to(model.device).float()
        for question, letter in zip(
            quiz.questions, answer_tokens(model, wording, tokens, list(quiz.questions)), strict=True
        ):
            for key in (question.template, question.group, "all"):
                asked[key] += 1
                right[key] += letter == question.letter
    order = ["all", *GROUPS, *sorted(set(asked) - {"all", *GROUPS})]
    return "\n".join(f"{key:14} {right[key] / asked[key]:.3f} of {asked[key]}" for key in order)


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """Show progress; a text that is reported stays above the bar."""
    columns = (TextColumn("{task.description:18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress:
        task = progress.add_task(title, total=total)

        def report(done: int, text: str) -> None:
            progress.update(task, completed=done)
            if text:
                progress.console.print(f"{title} {done}: {text}", soft_wrap=True, highlight=False)

        yield report


if __name__ == "__main__":
    app()
