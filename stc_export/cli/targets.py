"""``stc-export targets``."""

from dataclasses import dataclass
from typing import Annotated

import typer

from stc_engines import Host, Target, check_runnable, load_targets, read_host
from stc_export.cli.options import JsonFlag
from stc_export.cli.output import emit, reserved_stdout
from stc_export.cli.text import bytes_text, facts, ms_text, table
from stc_export.pipeline.types import Fit, StageBound
from stc_export.spec.errors import StcError

EXAMPLE = "stc-export targets --fit demo"
BOUND_NOTE = (
    "Times are bounds, not predictions: no device is faster than this. Per frame (prefill with a full memory) and per "
    "token (decode)."
)


@dataclass(frozen=True)
class TargetRow:
    """A target and whether this machine can run it; ``problem`` and ``fix`` say why not."""

    target: Target
    runs_here: bool
    problem: str | None = None
    fix: str | None = None


@dataclass(frozen=True)
class TargetList:
    """What ``targets --json`` prints."""

    targets: tuple[TargetRow, ...]


@dataclass(frozen=True)
class FitList:
    """What ``targets --fit X --json`` prints."""

    what: str
    fits: tuple[Fit, ...]


def targets(
    *,
    fit: Annotated[
        str | None,
        typer.Option("--fit", metavar="BUNDLE|MODEL", help="Where it has room, and how fast it can be there at best."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List the devices that bundles can be built for."""
    if fit is not None:
        _show_fit(fit, as_json=as_json)
        return
    with reserved_stdout(as_json=as_json):
        host = read_host()
        result = TargetList(tuple(_row(target, host) for target in load_targets()))
    emit(result, result_text(result), as_json=as_json)


def result_text(result: TargetList) -> str:
    """Return the targets for people."""
    rows = [
        (
            row.target.name,
            row.target.title,
            row.target.default_precision.text,
            f"{row.target.memory_bytes / 2**30:.0f} GiB" if row.target.memory_bytes else "-",
            "yes" if row.runs_here else "no",
            " ".join(filter(None, (row.target.evidence.state, row.target.evidence.date))),
        )
        for row in result.targets
    ]
    notes = [f"{row.target.name}: {row.target.evidence.note}" for row in result.targets]
    notes += [f"{row.problem} {row.fix}" for row in result.targets if row.problem]
    header = ("target", "device", "precision", "memory", "runs here", "evidence")
    return table(header, rows, right=(3,)) + "\n\n" + "\n".join(notes)


def _show_fit(what: str, *, as_json: bool) -> None:
    with reserved_stdout(as_json=as_json):
        from stc_export.pipeline.fit_targets import fit_targets

        result = FitList(what, fit_targets(what))
    emit(result, fit_text(result), as_json=as_json)


def fit_text(result: FitList) -> str:
    """Return the fit on every target for people."""
    stages = ("vit full", "vit selective", "prefill", "decode")
    header = ("target", "precision", "has room for", "needs", "fits", *stages)
    rows = [
        (
            fit.target,
            fit.precision,
            "-" if fit.room_bytes is None else bytes_text(fit.room_bytes),
            bytes_text(fit.session_bytes),
            {True: "yes", False: "no", None: "-"}[fit.fits],
            *(_bound_text(next(bound for bound in fit.stages if bound.stage == stage)) for stage in stages),
        )
        for fit in result.fits
    ]
    per_frames = sorted({(fit.precision, fit.kv_per_1000_frames_bytes, fit.frame_tokens) for fit in result.fits})
    notes = facts(
        [
            (f"KV of 1,000 frames, {precision}", f"{bytes_text(count)}, with {tokens} tokens each")
            for precision, count, tokens in per_frames
        ]
    )
    return f"{table(header, rows, right=(2, 3, 5, 6, 7, 8))}\n\n{notes}\n{BOUND_NOTE}"


def _bound_text(bound: StageBound) -> str:
    return "-" if bound.ms is None else ms_text(bound.ms)


def _row(target: Target, host: Host) -> TargetRow:
    try:
        check_runnable(target, host)
    except StcError as error:
        return TargetRow(target, runs_here=False, problem=error.problem, fix=error.fix)
    return TargetRow(target, runs_here=True)
