"""``bench``: what the compression saves on this machine, against baselines measured in the same run."""

from __future__ import annotations

from stc_engines.opening import open_backend
from stc_export.pipeline.bench.record import (
    SCHEMA,
    BenchRecord,
    check_record_path,
    command_line,
    describe_bundle,
    load_average,
    read_environment,
    write_record,
)
from stc_export.pipeline.bench.stages import measure_prefill, measure_stream, measure_vit, selections
from stc_export.pipeline.bench.video import read_scene
from stc_export.pipeline.types import BenchRequest, BenchResult
from stc_export.spec.progress import Progress
from stc_runtime.model import Model

#: What a reader of the rows should know in any case.
_NOT_MEASURED = "dense batched encoding was not measured: the graphs of a bundle take one frame at a time"


def bench(request: BenchRequest, progress: Progress) -> BenchResult:
    """Measure ViT, prefill and whole frames of a bundle with its own policy.

    Each stage and its baselines take turns, sample by sample, after a warm-up. The graphs of a stage are closed before
    the next one opens its own, so that no more memory is needed than for a session.

    Args:
        request: What to measure.
        progress: Receiver of progress.

    Raises:
        StcError: Bundle, video or output path cannot be used, or the target cannot run here.
    """
    if request.out is not None:
        check_record_path(request.out)
    backend = open_backend(request.bundle, request.threads)

    def opened() -> Model:
        return Model.open(request.bundle, backend)

    manifest, repeats = opened().manifest, request.repeats
    policy = manifest.policy
    scene = read_scene(request.video, request.frames)
    frames = len(scene.frames)
    load_before = load_average()
    measured = [measure_vit(opened(), policy, one, scene, repeats, progress) for one in selections(manifest)]
    measured.append(measure_prefill(opened(), policy, frames, repeats, progress))
    measured.append(measure_stream(opened(), policy, "with the policy", scene, repeats, progress))
    notes = [_NOT_MEASURED, *(note for stage in measured for note in stage.notes)]
    if frames < request.frames:
        notes.append(f"the video has {frames} of the {request.frames} frames at one per second")
    rows = tuple(row for stage in measured for row in stage.rows)
    result = BenchResult(str(request.bundle), manifest.target, rows, tuple(notes))
    if request.out is not None:
        record = BenchRecord(
            schema=SCHEMA,
            command=command_line(),
            bundle=describe_bundle(request.bundle, manifest),
            video=scene.source,
            environment=read_environment(request.threads, load_before),
            series=tuple(series for stage in measured for series in stage.series),
            result=result,
        )
        write_record(record, request.out)
    return result
