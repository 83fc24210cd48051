"""Mode ``--budget`` of ``calibrate``: the policy is tuned."""

import typer

from stc_export.cli.calibrate.flags import Flags
from stc_export.cli.output import emit, reserved_stdout
from stc_export.cli.progress import make_progress
from stc_export.cli.text import table
from stc_export.pipeline.calibrate.types import TuneRequest, TuneResult
from stc_export.spec.tuning import Estimate, HeldOutPolicy, TriedPolicy, TuningRecord

#: Rows of the front that are shown.
_SHOWN = 12
_LEGEND = (
    "kept: right answers of the uncompressed model that stayed right; without labels all its answers count as right;\n"
    "MACs: multiply-accumulates of ViT and prefill against it; KL: of the first token of an answer, in nats"
)


def run(flags: Flags) -> None:
    """Tune the policy of a bundle, and print what was found."""
    with reserved_stdout(as_json=flags.as_json):
        from stc_export.pipeline.calibrate.run import tune

        result = tune(_request(flags), make_progress())
    emit(result, result_text(result), as_json=flags.as_json)
    if not result.record.met:
        raise typer.Exit(1)


def _request(flags: Flags) -> TuneRequest:
    return TuneRequest(
        bundle=flags.bundle,
        budget=flags.budget or "",
        data=flags.data,
        task=flags.task,
        minutes=flags.minutes,
        fps=flags.fps,
        ask=flags.ask,
        limit=flags.limit,
        threads=flags.threads,
        out=flags.out,
    )


def result_text(result: TuneResult) -> str:
    """Return what was found, for people."""
    record = result.record
    parts = [_screening(record), _held_out(record), _LEGEND, _verdict(result)]
    return "\n\n".join(
        parts if result.trained else [*parts, "The weights of this model are random: answers mean nothing."]
    )


def _screening(record: TuningRecord) -> str:
    """Return the front, and what is looked at in any case."""
    wanted = {"off", "paper", record.chosen}
    front = sorted((row for row in record.tried if row.on_front and row.name not in wanted), key=lambda row: row.cost)
    rows = [row for row in record.tried if row.name in wanted] + front[:_SHOWN]
    title = f"screening: {len(record.tried)} candidates; below, three of them and the front\n"
    header = ("candidate", "questions", "kept", "MACs", "ms per frame", "KL", "on the front")
    return title + table(header, [_tried_cells(row) for row in rows], right=(1, 2, 3, 4, 5))


def _tried_cells(row: TriedPolicy) -> tuple[str, ...]:
    share = f"{100 * row.kept / max(row.questions, 1):.1f} %"
    front = "yes" if row.on_front else "no"
    return (
        row.name,
        str(row.questions),
        share,
        f"{row.cost:.1%}",
        f"{row.frame_ms:.1f}",
        f"{row.divergence:.4f}",
        front,
    )


def _held_out(record: TuningRecord) -> str:
    data = record.data
    title = (
        f"held out: {data.held_out_questions} questions about {data.held_out_clips} clips that the search did not see\n"
    )
    header = ("policy", "kept, 95 %", "by clips", "MACs", "ViT + prefill ms", "ms per frame", "p95", "features")
    return title + table(header, [_held_cells(row) for row in record.held_out], right=(3, 4, 5, 6, 7))


def _held_cells(row: HeldOutPolicy) -> tuple[str, ...]:
    features = "" if row.feature_cosine is None else f"{row.feature_cosine:.4f}"
    times = (f"{row.vit_prefill_ms:.2f}", f"{row.frame_ms:.2f}", f"{row.frame_p95_ms:.2f}")
    return (row.name, _share(row.kept), _share(row.by_clips), f"{row.cost:.1%}", *times, features)


def _share(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return f"{100 * found.value:.1f} %"
    return f"{100 * found.value:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"


def _verdict(result: TuneResult) -> str:
    record = result.record
    if record.met:
        return f"{record.verdict}.\nchosen: {record.chosen}\npolicy: {result.place.policy}"
    return (
        f"{record.verdict}.\nbest: {record.chosen}\nNo policy was written. Ask for less, or give more data; "
        f"what was watched is in {result.place.rows}."
    )
