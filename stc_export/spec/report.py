"""What the runtime reports: one record per frame, per piece of an answer, and per answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CacherMode = Literal["full", "selective", "skip"]


@dataclass(frozen=True)
class FrameReport:
    """What one pushed frame did.

    Attributes:
        time_s: Its timestamp in seconds.
        mode: How it was encoded.
        recomputed: R, ViT tokens that were recomputed (T for full, 0 for skip).
        recomputed_indices: Which they were, ascending: numbers below T in raster order. Empty for full and for skip,
            and with the selections ``per_layer`` and ``shared``, which choose inside the graph.
        similarity: Mean cosine of the frame's patch embeddings with the reference's; 0 without a reference.
        change: Relative change of the patch embeddings, |x - r| / |r|; infinite without a reference.
        visual_tokens: M, visual tokens before pruning.
        kept_tokens: K, visual tokens that the LLM got (0 for skip, and where the budget gave an encoded frame none).
        kept_indices: Which they were, ascending: numbers below M in raster order.
        evicted_frames: Frames that left the memory to make room.
        gate_ms: Time of resize, gate and decision.
        vit_ms: Time of the vision transformer (0 for skip).
        pruner_ms: Time of projector and pruner (0 for skip).
        prefill_ms: Time of the LLM over the kept tokens (0 without any). On a target with two streams the LLM works on
            when the frame is reported: this is then how long the stream was held up by it, which is the wait for the
            prefill of the frame before and the handing over of this one.
    """

    time_s: float
    mode: CacherMode
    recomputed: int
    recomputed_indices: tuple[int, ...]
    similarity: float
    change: float
    visual_tokens: int
    kept_tokens: int
    kept_indices: tuple[int, ...]
    evicted_frames: int
    gate_ms: float
    vit_ms: float
    pruner_ms: float
    prefill_ms: float


@dataclass(frozen=True)
class AnswerPiece:
    """A piece of an answer as it is produced.

    Attributes:
        text: Text that this token completes; may be empty while a character is incomplete.
        token: Token id, or -1 for text that was held back and is left over at the end.
        elapsed_ms: Time since the question was asked; for the first piece, the time to first token.
        step_ms: Time of the LLM step that produced it.
    """

    text: str
    token: int
    elapsed_ms: float
    step_ms: float


@dataclass(frozen=True)
class MemoryUse:
    """Bytes that a session holds, all of them reserved when it starts.

    Attributes:
        feature_cache: Feature cache of the ViT with its output buffers.
        kv: KV memory.
        history: History of the pruner.
    """

    feature_cache: int
    kv: int
    history: int
