"""Plain text for people: sizes, durations and tables without markup."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stc_export.spec.manifest import GraphParity

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def bytes_text(count: int) -> str:
    """Return a size in decimal units with three digits, e.g. ``1.23 MB``."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.5:
            return f"{value:.3g} {unit}"
    return f"{value / 1000:.3g} TB"


def ms_text(ms: float) -> str:
    """Return a time of milliseconds with three digits, e.g. ``0.0123 ms`` or ``1.23 s``."""
    return f"{ms:.3g} ms" if ms < 999.5 else f"{ms / 1000:.3g} s"


def duration_text(seconds: float) -> str:
    """Return a time in the unit that gives it one or two digits before the point, e.g. ``38 s`` or ``1.7 h``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def amount_text(done: int, total: int | None, unit: str) -> str:
    """Return how much of a stage is done, e.g. ``3 of 8 frames``, ``12 MB of 1.2 GB`` or ``3 frames``."""
    if unit == "B":
        return bytes_text(done) if total is None else f"{bytes_text(done)} of {bytes_text(total)}"
    amount = f"{done}" if total is None else f"{done} of {total}"
    return f"{amount} {unit}".rstrip()


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return aligned columns under a header.

    Args:
        header: Titles of the columns.
        rows: Cells of each row.
        right: Columns that are aligned to the right: numbers.
    """
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Return ``name  value`` lines with aligned values."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)


def parity_table(parity: tuple[GraphParity, ...]) -> str:
    """Return a row per case with its worst output."""
    rows = []
    for case in parity:
        worst = max(case.outputs, key=lambda row: row.max_rel / row.tolerance if row.tolerance else row.max_rel)
        verdict = "ok" if case.passed else "FAILED"
        numbers = (worst.output, f"{worst.max_rel:.1e}", f"{worst.tolerance:.0e}", f"{worst.cosine:.6f}")
        rows.append((case.graph, case.case, case.reference, case.layers, *numbers, verdict))
    header = ("graph", "case", "against", "layers", "worst output", "max rel", "allowed", "cosine", "parity")
    return table(header, rows, right=(5, 6, 7))


def without_controls(text: str) -> str:
    """Return text from a model or a file without the characters that steer a terminal; line breaks stay."""
    return _CONTROL.sub("", text)


def one_line(text: str) -> str:
    """Return text on one line, without control characters."""
    return without_controls(" ".join(text.split()))
