"""Targets and results of `make bench` as tables, written into docs/performance.md between two marks.

python benchmarks/tables.py [--results DIR] [--page FILE]
"""

from __future__ import annotations

import argparse
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shapes import FULL

from stc_export.pipeline.bench.record import BenchRecord
from stc_export.pipeline.types import BenchRow
from stc_export.spec import codec
from stc_export.spec.files import write_file

RESULTS = Path(__file__).resolve().parent / "results"
PAGE = RESULTS.parents[1] / "docs" / "performance.md"
START, END = "<!-- written by benchmarks/tables.py -->\n", "<!-- end -->\n"
#: Part -> title of its tables. Parts stand in this order.
TITLES: Mapping[str, str] = {
    "vit": "ViT, SigLIP so400m shape",
    "encoders": "Dense ViT against other runtimes",
    "prefill": "Prefill, Qwen2-0.5B shape",
    "decode": "Decoding against onnxruntime-genai",
    "host": "Where the time of a frame goes",
    "stream": "Whole frames",
    "startup": "Start of a process",
}


def _share(row: BenchRow) -> float:
    return 1 / row.ratio


def _saved(row: BenchRow) -> float:
    return 1 - 1 / row.ratio


def _faster(row: BenchRow) -> float:
    return row.ratio


def _cold_ms(row: BenchRow) -> float:
    return row.p50_ms


def _warm_ms(row: BenchRow) -> float:
    return row.baseline_p50_ms


@dataclass(frozen=True)
class Target:
    """What is to be reached.

    Attributes:
        what: The quantity.
        part: Part of the benchmark that has it.
        stage: How the rows that have it begin; the worst of them counts.
        value: Makes it of a row.
        reached: (value, goal) -> whether it is.
        goal: The goal.
        shown: How values are written.
    """

    what: str
    part: str
    stage: str
    value: Callable[[BenchRow], float]
    reached: Callable[[float, float], bool]
    goal: float
    shown: str


_SIGNS: Mapping[Callable[[float, float], bool], str] = {operator.le: "at most", operator.ge: "at least"}
_WORST: Mapping[Callable[[float, float], bool], Callable[[Sequence[float]], float]] = {
    operator.le: max,
    operator.ge: min,
}

TARGETS = (
    Target("selective pass at 25 %, `gate`, of the dense ViT", "vit", "gate 25 %", _share, operator.le, 0.30, ".2f"),
    Target(
        "selective pass at 25 %, `per_layer`, of the dense ViT",
        "vit",
        "per_layer 25 %",
        _share,
        operator.le,
        0.36,
        ".2f",
    ),
    Target("ViT time saved, N = 2, 25 %", "vit", "gate 25 %, N = 2", _saved, operator.ge, 0.33, ".0%"),
    Target("ViT time saved, N = 4, 25 %", "vit", "gate 25 %, N = 4", _saved, operator.ge, 0.50, ".0%"),
    Target("full pass, `gate`, of the dense ViT", "vit", "gate full", _share, operator.le, 1.03, ".2f"),
    Target("prefill saved, 60 of 196 tokens, worst length", "prefill", "prefill", _saved, operator.ge, 0.65, ".0%"),
    Target("gate, pruner and host, of a frame", "host", "gate + pruner + host", _share, operator.le, 0.03, ".1%"),
    Target(
        "decoding, context 500, against onnxruntime-genai", "decode", "decode, 500", _faster, operator.ge, 1.0, ".2f"
    ),
    Target(
        "decoding, context 4,000, against onnxruntime-genai", "decode", "decode, 4000", _faster, operator.ge, 1.0, ".2f"
    ),
    Target("dense ViT against the best of the others", "encoders", "dense", _faster, operator.ge, 1.0, ".2f"),
    Target("`import stc_runtime`, warm, ms", "startup", "import", _warm_ms, operator.le, 300.0, ".0f"),
    Target("`import stc_runtime`, cold, ms", "startup", "import", _cold_ms, operator.le, 300.0, ".0f"),
    Target("demo bundle opened, warm, ms", "startup", "open", _warm_ms, operator.le, 500.0, ".0f"),
    Target("demo bundle opened, cold, ms", "startup", "open", _cold_ms, operator.le, 500.0, ".0f"),
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with the results")
    parser.add_argument("--page", type=Path, default=PAGE, help="page to write them into")
    options = parser.parse_args(arguments)
    write_tables(options.results, options.page)
    return 0


def write_tables(results: Path, page: Path) -> None:
    """Put the tables of a folder of results between the marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(START)
    write_file(f"{before}{START}{tables(read_results(results))}{END}{rest.partition(END)[2]}".encode(), page)


def read_results(folder: Path) -> dict[str, BenchRecord]:
    """Return the results of the full form: name of the file -> record, parts in order, all cores first."""
    files = [file for part in TITLES for file in sorted(folder.glob(f"{part}-{FULL.name}*.json"), key=lambda f: f.stem)]
    return {file.name: codec.from_json(BenchRecord, file.read_text(encoding="utf-8")) for file in files}


def tables(records: Mapping[str, BenchRecord]) -> str:
    """Return targets against results, then all rows."""
    lines = [
        "\n## Targets and results\n",
        "| quantity | goal | measured | reached | load before |",
        "|---|---:|---:|---|---:|",
    ]
    lines += [_against(target, records.get(f"{target.part}-{FULL.name}.json")) for target in TARGETS]
    for part, title in TITLES.items():
        found = {name: record for name, record in records.items() if name.startswith(f"{part}-")}
        lines += [f"\n## {title}\n", *map(_told, found.items())] if found else []
    return "\n".join([*lines, ""])


def _against(target: Target, record: BenchRecord | None) -> str:
    goal = f"{_SIGNS[target.reached]} {target.goal:{target.shown}}"
    rows = [row for row in record.result.rows if _matches(target.stage, row.stage)] if record else []
    if record is None or not rows:
        return f"| {target.what} | {goal} | not measured | | |"
    value = _WORST[target.reached]([target.value(row) for row in rows])
    reached = "yes" if target.reached(value, target.goal) else "**no**"
    load = record.environment.load_before
    return f"| {target.what} | {goal} | {value:{target.shown}} | {reached} | {load} |"


def _matches(wanted: str, stage: str) -> bool:
    """Whether a stage begins with the words wanted; ``gate 25 %`` does not mean ``gate 25 %, N = 2``."""
    return stage == wanted or (stage.startswith((f"{wanted} ", f"{wanted}, ")) and "N =" not in stage)


def _told(named: tuple[str, BenchRecord]) -> str:
    name, record = named
    where = record.environment
    machine = f"{where.cpu}, {where.threads} of {where.cores} cores, ONNX Runtime {where.onnxruntime}"
    load = f"load {where.load_before} before and {where.load_after} after"
    notes = "".join(f"\n- {note}" for note in record.result.notes)
    return (
        f"{machine}, {load} ([raw samples](../benchmarks/results/{name})):\n\n{markdown(record.result.rows)}\n"
        f"{notes}{chr(10) if notes else ''}"
    )


def markdown(rows: tuple[BenchRow, ...]) -> str:
    """Return rows as a table."""
    header = "| stage | ms | baseline | ms | faster | bound | n |\n|---|---:|---|---:|---:|---:|---:|"
    lines = [
        f"| {row.stage} | {row.p50_ms:.1f} | {row.baseline} | {row.baseline_p50_ms:.1f} | {row.ratio:.2f}x | "
        f"{_bound(row)} | {row.n} |"
        for row in rows
    ]
    return "\n".join([header, *lines])


def _bound(row: BenchRow) -> str:
    return "" if row.bound is None else f"{row.bound:.2f}x"


if __name__ == "__main__":
    raise SystemExit(main())
