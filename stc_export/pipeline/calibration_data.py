"""Which data a build chooses scales from: the user's, or the demo world for the demo model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stc_calib.data import FRAMES, CalibrationData, Clip, DataDigest, Timed, digest_data, read_data
from stc_calib.schemes import Arithmetic
from stc_export.pipeline.precisions import Precisions
from stc_export.pipeline.source import DEMO, Source
from stc_export.pipeline.types import BuildRequest
from stc_export.spec.errors import UsageError
from stc_export.world.render import Renderer
from stc_export.world.script import write_clip

#: What records call the demo world.
WORLD = "demo world"
#: Clips of it that are looked at. Training, validation and test have others.
_CLIPS = 8


@dataclass(frozen=True)
class CalibrationTask:
    """What scales of activations are chosen from, and for what.

    Attributes:
        data: Frames.
        digest: Of all of them, as they were when the build began.
        arithmetic: What activations are rounded to.
    """

    data: CalibrationData
    digest: DataDigest
    arithmetic: Arithmetic


def find_task(request: BuildRequest, precisions: Precisions, source: Source) -> CalibrationTask | None:
    """Return what scales are to be chosen from; ``None`` if a build needs none.

    Raises:
        UsageError: It needs data and has none, it has data and needs none, or the data cannot be used.
        VideoError: A video or a picture cannot be read.
    """
    scheme = precisions.schemes.get("vit")
    if scheme is None or scheme.arithmetic is None or not scheme.calibrated:
        _refuse_data(request, precisions)
        return None
    data = _find_data(request, source, f"vit={scheme.precision}")
    return CalibrationTask(data, digest_data(data), scheme.arithmetic)


def _refuse_data(request: BuildRequest, precisions: Precisions) -> None:
    if request.calib is not None and request.rounding == "nearest":
        raise UsageError(
            f'--calib is "{request.calib}", and {precisions.text} on {request.target or "cpu"} needs no data.',
            "Leave --calib out.",
        )


def _find_data(request: BuildRequest, source: Source, asked: str) -> CalibrationData:
    if request.calib is not None:
        return read_data(request.calib)
    if source.name == DEMO:
        return world_data()
    raise UsageError(
        f"{asked} rounds activations by scales that are chosen from data, and --calib is not given.",
        "Give --calib FOLDER with videos or pictures of what the model will see; int4 and llm=int8 need none.",
    )


def world_data() -> CalibrationData:
    """Return clips of the generated world."""
    return CalibrationData(WORLD, tuple(_world_clip(f"calibration/{number}") for number in range(_CLIPS)))


def _world_clip(name: str) -> Clip:
    def frames() -> Iterator[Timed]:
        clip = write_clip(name)
        renderer = Renderer(clip)
        for number in range(min(clip.frames, FRAMES // _CLIPS)):
            yield renderer.frame(number), number / clip.fps

    return Clip(name, frames)
