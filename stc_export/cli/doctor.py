"""``stc-export doctor``."""

from stc_export.cli.options import JsonFlag
from stc_export.cli.output import emit, reserved_stdout
from stc_export.cli.text import bytes_text, facts, table
from stc_export.pipeline.doctor import DoctorResult, examine
from stc_export.spec.errors import MissingDependencyError

EXAMPLE = "stc-export doctor"


def doctor(*, as_json: JsonFlag = False) -> None:
    """Show what this machine has, and what is missing."""
    with reserved_stdout(as_json=as_json):
        result = examine()
    emit(result, result_text(result), as_json=as_json)
    if result.problem is not None:
        raise MissingDependencyError(result.problem, result.fix or "")


def result_text(result: DoctorResult) -> str:
    """Return the findings for people."""
    parts = [_machine(result), _packages(result)]
    if result.extras:
        rows = [(x.name, "complete" if not x.missing else ", ".join(x.missing), x.command or "") for x in result.extras]
        parts.append(table(("extra", "state", "install with"), rows))
    parts += list(result.notes)
    if result.problem is None:
        parts.append("The runtime can run here.")
    return "\n\n".join(parts)


def _machine(result: DoctorResult) -> str:
    device = result.device
    rows = [
        ("system", result.system),
        ("cpu", f"{result.cpu}, {result.cores} cores"),
        ("memory", f"{_size(device.memory_bytes)}, {_size(device.memory_available_bytes)} available"),
        ("disk", f"{bytes_text(result.disk_free_bytes)} free here"),
        ("CUDA driver", result.cuda_driver or "none"),
    ]
    if device.model:
        rows.append(("board", device.model))
    if device.l4t:
        rows.append(("Jetson Linux", f"{device.l4t} (JetPack {device.jetpack or 'unknown'})"))
    return facts(rows)


def _packages(result: DoctorResult) -> str:
    rows = [("stc-export", result.stc_export), ("python", result.python)]
    rows += [(package.name, package.version or "-") for package in result.packages]
    rows.append(("providers", ", ".join(result.providers) or "-"))
    return facts(rows)


def _size(count: int | None) -> str:
    return "unknown" if count is None else bytes_text(count)
