"""A few frames of a clip under a few settings, with what was computed and what was kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from stc_engines.opening import open_backend
from stc_export.pipeline.picture import token_picture
from stc_export.pipeline.samples import SampleKeeper
from stc_export.pipeline.validate.page import Picture
from stc_export.spec.progress import Progress
from stc_export.validate.types import Setting, TaskClip
from stc_runtime.model import Model
from stc_runtime.session import StreamSession

#: Bounds on what the pictures cost: settings, frames that are streamed under each, and those that are shown.
_SETTINGS, _STREAMED, _SHOWN = 3, 12, 3


def draw_frames(bundle: Path, settings: Sequence[Setting], clip: TaskClip, progress: Progress) -> tuple[Picture, ...]:
    """Stream the beginning of a clip under a few settings and draw some of its frames.

    Args:
        bundle: Directory of the bundle.
        settings: All settings, the baseline first, which computes and keeps everything and is not drawn. Neither are
            those of other bundles: they choose what the first one chooses, but for rounding.
        clip: What to stream; its questions are not asked.
        progress: Receiver of progress.

    Raises:
        StcError: The bundle or the clip cannot be used.
    """
    chosen = spread_out([one for one in settings[1:] if one.engine == "bundle" and not one.bundle])
    if not chosen:
        return ()
    model = Model.open(bundle, open_backend(bundle, 1))
    with progress.stage("frames of the report", len(chosen), "settings") as advance:
        return tuple(_draw(model, setting, clip, advance) for setting in chosen)


def spread_out(settings: Sequence[Setting]) -> list[Setting]:
    """Return up to three settings, the first and the last among them."""
    if len(settings) <= _SETTINGS:
        return list(settings)
    return [settings[round(place * (len(settings) - 1) / (_SETTINGS - 1))] for place in range(_SETTINGS)]


def _draw(model: Model, setting: Setting, clip: TaskClip, advance: Callable[[int], None]) -> Picture:
    keeper = SampleKeeper()
    with StreamSession(model, setting.policy) as session:
        for frame, seconds in islice(clip.footage.frames(), _STREAMED):
            keeper.see(frame, session.push(frame, seconds))
    samples = keeper.choose(_SHOWN)
    advance(1)
    caption = f"{setting.name}: frames of the first {samples[-1].report.time_s:.1f} s of clip {clip.name}"
    return Picture(caption, token_picture(samples, model.manifest.dims.vision))
