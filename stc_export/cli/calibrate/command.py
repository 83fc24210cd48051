"""``stc-export calibrate``: the flags, and which mode they ask for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from stc_export.cli.calibrate import sensitivity as sensitivity_mode
from stc_export.cli.calibrate import tune
from stc_export.cli.calibrate.flags import Flags
from stc_export.cli.options import BundleArgument, JsonFlag, ThreadsOption, check_above_zero, check_least
from stc_export.spec.errors import UsageError

EXAMPLE = "stc-export calibrate demo.stc --data my_videos/ --budget accuracy=0.99"


@dataclass(frozen=True)
class Mode:
    """Something that the command does.

    Attributes:
        asked: Whether the flags ask for it.
        run: Does it, and prints the result.
    """

    asked: Callable[[Flags], bool]
    run: Callable[[Flags], None]


#: The modes, each under the flag that asks for it.
MODES: Mapping[str, Mode] = {
    "--budget": Mode(lambda flags: flags.budget is not None, tune.run),
    "--sensitivity": Mode(lambda flags: flags.sensitivity, sensitivity_mode.run),
}


def calibrate(  # noqa: PLR0913 - one parameter per flag
    bundle: BundleArgument,
    *,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="PATH", help="A video, or a folder with videos or files of the task."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="NAME=VALUE", help="Tune the policy: accuracy=0.99 or latency_ms=40."),
    ] = None,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Measure what rounding each layer costs; also takes a checkpoint.")
    ] = False,
    precision: Annotated[
        str, typer.Option("--precision", metavar="NAME", help="How --sensitivity rounds, as build takes it.")
    ] = "int4",
    task: Annotated[
        str, typer.Option("--task", metavar="NAME", help="fidelity (own videos), or a task of validate.")
    ] = "fidelity",
    minutes: Annotated[
        float | None, typer.Option("--minutes", metavar="N", help="Stop after so long; the same command continues.")
    ] = None,
    fps: Annotated[
        float | None, typer.Option("--fps", metavar="RATE", help="Frames per second to take of videos.")
    ] = None,
    ask: Annotated[
        list[str] | None,
        typer.Option("--ask", metavar="TEXT", help="Question in place of those of task fidelity; can be repeated."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="Only the first videos or clips.")] = None,
    threads: ThreadsOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="The policy goes here, not into the bundle; or the evidence of --sensitivity.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Fit the policy of a bundle to a device and to videos."""
    for flag, value in (("--limit", limit), ("--threads", threads)):
        check_least(flag, value, 1)
    for flag, amount in (("--fps", fps), ("--minutes", minutes)):
        if amount is not None:
            check_above_zero(flag, amount)
    flags = Flags(
        bundle=bundle,
        data=data,
        budget=budget,
        sensitivity=sensitivity,
        precision=precision,
        task=task,
        minutes=minutes,
        fps=fps,
        ask=tuple(ask or ()),
        limit=limit,
        threads=threads,
        out=out,
        as_json=as_json,
    )
    find_mode(flags).run(flags)


def find_mode(flags: Flags) -> Mode:
    """Return the mode that flags ask for.

    Raises:
        UsageError: They ask for none, or for several.
    """
    asked = [name for name, mode in MODES.items() if mode.asked(flags)]
    if len(asked) != 1:
        raise UsageError(
            f"calibrate was given {' and '.join(asked) or 'no flag that says what to do'}, expected one of "
            f"{', '.join(MODES)}.",
            f"Write for example {EXAMPLE}.",
        )
    return MODES[asked[0]]
