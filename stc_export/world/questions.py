"""From what is true at a frame to multiple-choice questions about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stc_export.world.scene import COLOURS, COLUMN_NAMES, DIGITS, SHAPES, SIDES
from stc_export.world.state import MOTIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from stc_export.world.dice import Dice
    from stc_export.world.state import Sight, State

NONE = "none"
LETTERS = ("A", "B", "C", "D")
REALTIME = "realtime"
BACKWARD = "backward"
DETAIL = "detail"
GROUPS = (REALTIME, BACKWARD, DETAIL)
COUNTS = ("0", "1", "2", "3", "4")
_ORDER = ("first", "second", "third")


@dataclass(frozen=True)
class Template:
    """A kind of question.

    Attributes:
        name: Short name, as in reports.
        group: One of :data:`GROUPS`.
        text: The question; ``{}`` stands for one of ``subjects``.
        subjects: What it may be asked about; one empty string if there is nothing to choose.
        values: Every possible answer.
        answer: From a state and the number of the subject to an answer, or None where it cannot be asked.
    """

    name: str
    group: str
    text: str
    subjects: tuple[str, ...]
    values: tuple[str, ...]
    answer: Callable[[State, int], str | None]


@dataclass(frozen=True)
class Question:
    """A question with its options.

    Attributes:
        template: Name of its :class:`Template`.
        group: One of :data:`GROUPS`.
        frame: It is asked after this frame.
        at_s: The same in seconds of the clip.
        text: The question alone.
        options: Four answers, one of them right.
        right: Index of the right one.
    """

    template: str
    group: str
    frame: int
    at_s: float
    text: str
    options: tuple[str, ...]
    right: int

    @property
    def letter(self) -> str:
        """The right letter."""
        return LETTERS[self.right]

    @property
    def prompt(self) -> str:
        """The question as it is put to a model."""
        return self.text + "\n" + " ".join(f"{letter}. {o}" for letter, o in zip(LETTERS, self.options, strict=True))


def choose_options(template: Template, answer: str, dice: Dice) -> tuple[tuple[str, ...], int]:
    """Draw three wrong options evenly and put all four in random order.

    If the answers of a template are even over its values, then so is the right one over any four options: the options
    say nothing about it. See :func:`stc_export.world.splits.balanced`.

    Returns:
        The options and the index of the right one.
    """
    wrong = dice.some([value for value in template.values if value != answer], len(LETTERS) - 1)
    right = dice.between(0, len(LETTERS) - 1)
    return (*wrong[:right], answer, *wrong[right:]), right


def _one(state: State, shape: int) -> Sight | None:
    return next((sight for sight in state.sights if sight.shape == shape), None)


def _seen_now(what: Callable[[Sight], str | None]) -> Callable[[State, int], str | None]:
    def answer(state: State, shape: int) -> str | None:
        sight = _one(state, shape)
        if sight is None or sight.there is False:
            return NONE
        return what(sight) if sight.there else None

    return answer


def _colour_now(sight: Sight) -> str:
    return COLOURS[sight.colour]


def _column_now(sight: Sight) -> str | None:
    return None if sight.column is None else COLUMN_NAMES[sight.column]


def _motion_now(sight: Sight) -> str | None:
    return None if sight.motion is None else MOTIONS[sight.motion]


def _shape_now(state: State, colour: int) -> str | None:
    sight = next((sight for sight in state.sights if sight.colour == colour), None)
    if sight is None or sight.there is False:
        return NONE
    return SHAPES[sight.shape] if sight.there else None


def _count_now(state: State, _: int) -> str | None:
    if any(sight.there is None for sight in state.sights):
        return None
    return COUNTS[sum(sight.there is True for sight in state.sights)]


def _digit_now(state: State, _: int) -> str:
    return NONE if state.digit is None else DIGITS[state.digit]


def _lamp_now(state: State, _: int) -> str:
    return COLOURS[state.lamp[-1]]


def _digit_first(state: State, _: int) -> str:
    return DIGITS[state.digits[0]] if state.digits else NONE


def _digit_before(state: State, _: int) -> str:
    return DIGITS[state.digits[-2]] if len(state.digits) > 1 else NONE


def _entered(state: State, place: int) -> str | None:
    if any(sight.been is None for sight in state.sights):
        return None
    order = sorted((s for s in state.sights if s.entered is not None), key=lambda s: s.entered or 0)
    frames = [sight.entered for sight in order]
    if len(set(frames)) < len(frames):
        return None
    return SHAPES[order[place].shape] if place < len(order) else NONE


def _entered_side(state: State, shape: int) -> str | None:
    sight = _one(state, shape)
    if sight is None or sight.been is False:
        return NONE
    return SIDES[sight.side] if sight.been else None


def _left_last(state: State, _: int) -> str | None:
    if any(sight.there is None for sight in state.sights):
        return None
    gone = sorted((s for s in state.sights if s.left is not None), key=lambda s: s.left or 0)
    if len({sight.left for sight in gone}) < len(gone):
        return None
    return SHAPES[gone[-1].shape] if gone else NONE


def _lamp_changes(state: State, _: int) -> str:
    return COUNTS[len(state.lamp) - 1]


def _lamp_first(state: State, _: int) -> str | None:
    return COLOURS[state.lamp[0]] if len(state.lamp) > 1 else None


def _lamp_before(state: State, _: int) -> str:
    return COLOURS[state.lamp[-2]] if len(state.lamp) > 1 else NONE


def _spark_first(state: State, _: int) -> str:
    return COLOURS[state.sparks[0][0]] if state.sparks else NONE


def _spark_last(state: State, _: int) -> str:
    return COLOURS[state.sparks[-1][0]] if state.sparks else NONE


def _spark_column(state: State, _: int) -> str:
    return COLUMN_NAMES[state.sparks[-1][1]] if state.sparks else NONE


def _spark_count(state: State, _: int) -> str:
    return COUNTS[len(state.sparks)]


_ALONE = ("",)
_COLOUR_OR_NONE = (*COLOURS, NONE)
_SHAPE_OR_NONE = (*SHAPES, NONE)
_DIGIT_OR_NONE = (*DIGITS, NONE)
_COLUMN_OR_NONE = (*COLUMN_NAMES, NONE)

TEMPLATES: tuple[Template, ...] = (
    Template("colour_now", REALTIME, "What colour is the {} now?", SHAPES, _COLOUR_OR_NONE, _seen_now(_colour_now)),
    Template("shape_now", REALTIME, "Which object is {} now?", COLOURS, _SHAPE_OR_NONE, _shape_now),
    Template("column_now", REALTIME, "Where is the {} now?", SHAPES, _COLUMN_OR_NONE, _seen_now(_column_now)),
    Template("motion_now", REALTIME, "How does the {} move now?", SHAPES, (*MOTIONS, NONE), _seen_now(_motion_now)),
    Template("count_now", REALTIME, "How many objects are there now?", _ALONE, COUNTS, _count_now),
    Template("digit_now", REALTIME, "What does the sign show now?", _ALONE, _DIGIT_OR_NONE, _digit_now),
    Template("lamp_now", REALTIME, "What colour is the lamp now?", _ALONE, COLOURS, _lamp_now),
    Template("digit_first", BACKWARD, "What did the sign show first?", _ALONE, _DIGIT_OR_NONE, _digit_first),
    Template("digit_before", BACKWARD, "What did the sign show before?", _ALONE, _DIGIT_OR_NONE, _digit_before),
    Template("entered", BACKWARD, "Which object entered {}?", _ORDER, _SHAPE_OR_NONE, _entered),
    Template("entered_side", BACKWARD, "Where did the {} enter?", SHAPES, (*SIDES, NONE), _entered_side),
    Template("left_last", BACKWARD, "Which object left last?", _ALONE, _SHAPE_OR_NONE, _left_last),
    Template("lamp_changes", BACKWARD, "How often did the lamp change?", _ALONE, COUNTS, _lamp_changes),
    Template("lamp_first", BACKWARD, "What colour was the lamp first?", _ALONE, COLOURS, _lamp_first),
    Template("lamp_before", BACKWARD, "What colour was the lamp before?", _ALONE, _COLOUR_OR_NONE, _lamp_before),
    Template("spark_first", DETAIL, "What colour was the first spark?", _ALONE, _COLOUR_OR_NONE, _spark_first),
    Template("spark_last", DETAIL, "What colour was the last spark?", _ALONE, _COLOUR_OR_NONE, _spark_last),
    Template("spark_column", DETAIL, "Where was the last spark?", _ALONE, _COLUMN_OR_NONE, _spark_column),
    Template("spark_count", DETAIL, "How many sparks were there?", _ALONE, COUNTS[:4], _spark_count),
)
