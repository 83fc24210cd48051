"""Plans what the LLM remembers of an endless stream: slots of the KV cache, and positions.

The memory is one ``sink`` (the prompt before the video), then frames and dialogues in order. Slots are compact: token n
is in slot n. When room is needed the oldest segments leave as wholes, never the sink, and the survivors move down.

Positions of survivors do not change then, because that would mean to rotate every cached key. Instead the few keys of
the sink move *up* to meet them: attention depends on differences of positions only, so this equals moving everything
else down. Positions therefore grow with the stream. Before they leave the model's context all of them are shifted down
together, so that the sink is at 0 again (*rebase*).

All functions are pure; :class:`~stc_runtime.memory.kv.KVMemory` carries the plans out. After each of them at least
``answer_tokens`` slots and positions are free behind the memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from stc_export.spec.errors import QuestionError, ResourceError

SegmentKind = Literal["frame", "dialogue"]


@dataclass(frozen=True)
class Limits:
    """Bounds of the memory.

    Attributes:
        kv_tokens: Tokens that may be remembered, sink included.
        answer_tokens: Slots and positions kept free behind them for a question with its answer.
        context: Positions of the model: all are below this.
        frames: Frames that may be remembered; ``None``: as many as the tokens allow.
    """

    kv_tokens: int
    answer_tokens: int
    context: int
    frames: int | None = None

    @property
    def capacity(self) -> int:
        """Slots of the cache."""
        return self.kv_tokens + self.answer_tokens


@dataclass(frozen=True)
class Segment:
    """A frame or a dialogue: ``tokens`` slots, and ``span`` >= ``tokens`` positions."""

    kind: SegmentKind
    tokens: int
    span: int


@dataclass(frozen=True)
class MemoryState:
    """What is remembered.

    Attributes:
        limits: Bounds.
        sink: Tokens of the sink, in the first slots.
        origin: Position of the first token of the sink.
        segments: Frames and dialogues, oldest first.
    """

    limits: Limits
    sink: int
    origin: int = 0
    segments: tuple[Segment, ...] = ()

    @property
    def used(self) -> int:
        """Slots in use; also the next free slot."""
        return self.sink + sum(segment.tokens for segment in self.segments)

    @property
    def next_position(self) -> int:
        """Position behind everything remembered."""
        return self.origin + self.sink + sum(segment.span for segment in self.segments)

    @property
    def frames(self) -> int:
        """Frames remembered."""
        return sum(segment.kind == "frame" for segment in self.segments)


@dataclass(frozen=True)
class AdmitPlan:
    """How new tokens enter the cache. Steps, in order: evict; rebase, or else move the sink; write the new tokens.

    Attributes:
        sink: Tokens of the sink.
        evicted_slots: Slots ``[sink, sink + evicted_slots)`` leave; the survivors behind them move down.
        evicted_frames: Frames among what leaves.
        rebase_by: Subtract this from the position of every survivor. The sink returns to 0 then.
        origin: New position of the first token of the sink.
        slot: Slot of the first new token.
        position: Position of the first new token.
        tokens: New tokens.
    """

    sink: int
    evicted_slots: int
    evicted_frames: int
    rebase_by: int
    origin: int
    slot: int
    position: int
    tokens: int


@dataclass(frozen=True)
class QuestionPlan:
    """Where a question goes; the memory stays as it is.

    Attributes:
        slot: Slot of its first token.
        position: Position of its first token.
        answer_room: Tokens of the answer that fit behind it.
    """

    slot: int
    position: int
    answer_room: int


def start(limits: Limits, sink_tokens: int, frame_tokens: int, frame_span: int) -> MemoryState:
    """Return the memory at the start of a stream: the sink in slots and positions ``[0, sink_tokens)``.

    Args:
        limits: Bounds.
        sink_tokens: Tokens of the prompt before the video.
        frame_tokens: Most tokens of a frame.
        frame_span: Positions of a frame.

    Raises:
        ResourceError: The bounds do not hold the sink and one frame.
    """
    _check_fits(limits, sink_tokens, Segment("frame", frame_tokens, frame_span))
    return MemoryState(limits, sink_tokens)


def admit(state: MemoryState, kind: SegmentKind, tokens: int, span: int) -> tuple[AdmitPlan, MemoryState]:
    """Make room for a new segment and place it.

    Args:
        state: What is remembered.
        kind: Frame or dialogue.
        tokens: Slots that it needs; 0 changes nothing.
        span: Positions that it covers, gaps included; at least ``tokens``.

    Returns:
        The plan, and the memory once it is carried out.

    Raises:
        ResourceError: It would not even fit beside the sink alone.
        ValueError: A negative count, or more tokens than positions.
    """
    if not 0 <= tokens <= span:
        raise ValueError(f"{tokens} tokens over {span} positions")
    segment = Segment(kind, tokens, span)
    if tokens == 0:
        return _plan(state, state, 0, segment), state
    _check_fits(state.limits, state.sink, segment)
    evicted = _segments_to_evict(state, segment)
    gone = state.segments[:evicted]
    room = replace(state, origin=state.origin + sum(old.span for old in gone), segments=state.segments[evicted:])
    rebase_by = 0
    if room.next_position + span + state.limits.answer_tokens > state.limits.context:
        rebase_by = room.origin
        room = replace(room, origin=0)
    return _plan(state, room, rebase_by, segment), replace(room, segments=(*room.segments, segment))


def question(state: MemoryState, tokens: int) -> QuestionPlan:
    """Place a question of ``tokens`` tokens behind the memory.

    No rebase can be needed: the positions for ``answer_tokens`` are free after every :func:`start` and :func:`admit`.

    Raises:
        QuestionError: The question leaves no room for one token of an answer.
    """
    room = state.limits.answer_tokens
    if tokens + 1 > room:
        raise QuestionError(
            f"The question has {tokens} tokens with its prompt, {room - 1} fit beside one token of an answer.",
            "Shorten the question, or raise memory.answer_tokens in the policy.",
        )
    return QuestionPlan(state.used, state.next_position, room - tokens)


def _plan(before: MemoryState, room: MemoryState, rebase_by: int, segment: Segment) -> AdmitPlan:
    return AdmitPlan(
        sink=before.sink,
        evicted_slots=before.used - room.used,
        evicted_frames=before.frames - room.frames,
        rebase_by=rebase_by,
        origin=room.origin,
        slot=room.used,
        position=room.next_position,
        tokens=segment.tokens,
    )


def _segments_to_evict(state: MemoryState, new: Segment) -> int:
    """Count the oldest segments that must leave: slots must suffice, positions after a rebase, and frames be few."""
    limits = state.limits
    frames_over = _frames_over(state, new)
    slots_lacking = state.used + new.tokens - limits.kv_tokens
    positions_lacking = state.next_position - state.origin + new.span + limits.answer_tokens - limits.context
    count = 0
    while slots_lacking > 0 or positions_lacking > 0 or frames_over > 0:
        slots_lacking -= state.segments[count].tokens
        positions_lacking -= state.segments[count].span
        frames_over -= state.segments[count].kind == "frame"
        count += 1
    return count


def _frames_over(state: MemoryState, new: Segment) -> int:
    if state.limits.frames is None:
        return 0
    return state.frames + (new.kind == "frame") - state.limits.frames


def _check_fits(limits: Limits, sink: int, segment: Segment) -> None:
    """Check that a segment fits beside the sink when nothing else is remembered."""
    slots = sink + segment.tokens
    if slots > limits.kv_tokens:
        raise ResourceError(
            f"The memory holds {limits.kv_tokens} tokens (memory.kv_tokens), but the prompt ({sink}) and one "
            f"{segment.kind} ({segment.tokens}) need {slots}.",
            f"Set memory.kv_tokens to at least {slots}, or keep fewer tokens of a frame (pruner.keep, pruner.budget).",
        )
    positions = sink + segment.span + limits.answer_tokens
    if positions > limits.context:
        raise ResourceError(
            f"The model has {limits.context} positions, but the prompt ({sink}), one {segment.kind} ({segment.span}) "
            f"and memory.answer_tokens ({limits.answer_tokens}) need {positions}.",
            'Lower memory.answer_tokens, or set memory.positions to "contiguous" and keep fewer tokens (pruner.keep, '
            "pruner.budget).",
        )
