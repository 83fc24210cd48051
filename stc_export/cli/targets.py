"""``stc-export targets``."""

from dataclasses import dataclass

from stc_engines import Host, Target, check_runnable, load_targets, read_host
from stc_export.cli.options import JsonFlag
from stc_export.cli.output import emit, reserved_stdout
from stc_export.cli.text import table
from stc_export.spec.errors import StcError

EXAMPLE = "stc-export targets"


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


def targets(*, as_json: JsonFlag = False) -> None:
    """List the devices that bundles can be built for."""
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
            row.target.default_precision,
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


def _row(target: Target, host: Host) -> TargetRow:
    try:
        check_runnable(target, host)
    except StcError as error:
        return TargetRow(target, runs_here=False, problem=error.problem, fix=error.fix)
    return TargetRow(target, runs_here=True)
