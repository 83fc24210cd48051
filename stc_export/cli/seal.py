"""``stc-export seal``."""

from statistics import median
from typing import Annotated

import typer

from stc_export.cli.options import BundleArgument, JsonFlag
from stc_export.cli.output import emit, reserved_stdout
from stc_export.cli.progress import make_progress
from stc_export.cli.text import bytes_text, facts, ms_text, parity_table, table
from stc_export.pipeline.types import SealRequest, SealResult

EXAMPLE = "stc-export seal demo.stc"


def seal(
    bundle: BundleArgument,
    *,
    target: Annotated[
        str | None, typer.Option("--target", metavar="NAME", help="Another target than it was built for.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Build engines again that are there.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Build the engines of a bundle on its device, and check them."""
    with reserved_stdout(as_json=as_json):
        from stc_export.pipeline.seal import seal_bundle

        result = seal_bundle(SealRequest(bundle, target, overwrite), make_progress())
    emit(result, seal_text(result), as_json=as_json)


def seal_text(result: SealResult) -> str:
    """Return sealed engines for people: sizes, build times, parity and what each takes."""
    record = result.record
    rows = [
        (entry.graph, ", ".join(entry.profiles) or "-", bytes_text(entry.size_bytes), f"{entry.build_s:.1f} s")
        for entry in record.engines
    ]
    parts = [table(("engine of", "profiles", "size", "built in"), rows, right=(2, 3))]
    if record.parity:
        parts.append(parity_table(record.parity))
    if record.timings:
        times = [(row.graph, row.case, ms_text(median(row.samples_ms))) for row in record.timings]
        parts.append(table(("engine of", "case", "median"), times, right=(2,)))
    bound = [
        ("GPU", record.fingerprint.device),
        ("SM", record.fingerprint.sm),
        ("Jetson Linux", record.fingerprint.l4t),
    ]
    parts.append(
        facts(
            [
                ("engines", str(result.folder) + ("" if result.built else " (there already)")),
                ("target", f"{result.target}, {record.fingerprint.product} {record.fingerprint.version}"),
                *((name, value) for name, value in bound if value),
            ]
        )
    )
    if record.not_checked:
        parts.append(f"Not checked: {record.not_checked}")
    return "\n\n".join(parts)
