"""Mode ``--sensitivity`` of ``calibrate``: what rounding each layer costs."""

from stc_export.cli.calibrate.flags import Flags
from stc_export.cli.output import emit, reserved_stdout
from stc_export.cli.progress import make_progress
from stc_export.cli.text import bytes_text, table
from stc_export.pipeline.calibrate.sensitivity_types import Cost, SensitivityRequest, SensitivityResult

_HEADER = ("layer", "1 - cosine", "of features", "KL, nats", "same first token", "in higher precision", "")
_LEGEND = (
    "Each layer was rounded alone. Cosine: of the LLM's last hidden states with those of the unrounded model, and of\n"
    "the ViT's features; KL: of the answer's first token. Proposed are the layers that lose most per byte, until they\n"
    "have half of all losses."
)


def run(flags: Flags) -> None:
    """Measure what rounding each layer costs, and print it with a proposal."""
    with reserved_stdout(as_json=flags.as_json):
        from stc_export.pipeline.calibrate.sensitivity import evidence_path, run_sensitivity

        request = SensitivityRequest(str(flags.bundle), flags.precision, flags.data, flags.out)
        progress = make_progress()
        result = run_sensitivity(request, progress)
        progress.note(f"evidence: {evidence_path(request)}")
    emit(result, result_text(result), as_json=flags.as_json)


def result_text(result: SensitivityResult) -> str:
    """Return a result for people."""
    rows = [
        (*_cells(row.layer, row.cost), f"+{bytes_text(row.extra_bytes)}", "proposed" if row.proposed else "")
        for row in result.layers
    ]
    rows.append((*_cells("all", result.rounded), "", ""))
    if result.keep:
        rows.append((*_cells("all but proposed", result.proposed), f"+{bytes_text(result.extra_bytes)}", ""))
    about = f"{result.model} in {result.precision}: {result.prompts} prompts, {result.tokens:,} tokens ({result.data})."
    shown = [table(_HEADER, rows, right=(1, 2, 3, 4, 5)), about, _LEGEND]
    if result.keep:
        shown.append(f"next: stc-export build MODEL --precision {result.precision} --keep-precision '{result.keep}'")
    return "\n\n".join(shown)


def _cells(name: str, cost: Cost) -> tuple[str, ...]:
    features = "" if cost.features is None else f"{1 - cost.features:.6f}"
    return (name, f"{cost.loss:.6f}", features, f"{cost.divergence:.6f}", f"{100 * cost.same_first:.0f} %")
