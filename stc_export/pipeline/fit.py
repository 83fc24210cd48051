"""Whether one session of a model has room on a target, and how fast it can be there at best."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stc_export.pipeline.bounds import stage_bounds
from stc_export.pipeline.types import Fit
from stc_export.spec.memory import kept_tokens
from stc_runtime.footprint import kv_bytes

if TYPE_CHECKING:
    from stc_engines.table import Target
    from stc_export.pipeline.precisions import Precisions
    from stc_export.spec.dims import ModelDims
    from stc_export.spec.policy import Policy

_MANY_FRAMES = 1000


def fit_target(target: Target, dims: ModelDims, policy: Policy, precisions: Precisions, session_bytes: int) -> Fit:
    """Compare what one session needs with what a target has, and bound its times."""
    room = None if target.memory_bytes is None else target.memory_bytes - (target.memory_reserved_bytes or 0)
    kept = kept_tokens(dims.vision.visual_tokens, policy.pruner.keep)
    return Fit(
        target=target.name,
        precision=precisions.floats,
        room_bytes=room,
        session_bytes=session_bytes,
        fits=None if room is None else session_bytes <= room,
        kv_per_1000_frames_bytes=kv_bytes(dims, _MANY_FRAMES * kept, precisions.dtype, precisions.kv),
        frame_tokens=kept,
        stages=stage_bounds(dims, policy, precisions, target),
    )
