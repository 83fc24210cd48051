from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stc_export.world.dice import Dice
from stc_export.world.questions import GROUPS, TEMPLATES, Question, Template, choose_options
from stc_export.world.script import write_clip
from stc_export.world.state import tell
from tests.stc_export.world.plans import STORY, plan, resting

BY_NAME = {template.name: template for template in TEMPLATES}
STATES = tell(STORY)

#: Template, subject, frame, answer: read off the plan of ``STORY``.
KNOWN = [
    ("colour_now", "ball", 1, "none"),
    ("colour_now", "ball", 10, "red"),
    ("colour_now", "ball", 25, "none"),
    ("colour_now", "box", 11, None),  # a third of it is inside
    ("colour_now", "cross", 30, "none"),
    ("shape_now", "red", 10, "ball"),
    ("shape_now", "green", 5, "none"),
    ("shape_now", "green", 11, None),
    ("shape_now", "green", 20, "box"),
    ("shape_now", "white", 20, "none"),
    ("column_now", "ball", 8, "left"),
    ("column_now", "box", 15, "rightmost"),
    ("column_now", "ball", 5, None),  # x = 49: on the border
    ("column_now", "cone", 15, "none"),
    ("motion_now", "ball", 5, "right"),
    ("motion_now", "ball", 7, None),  # it has just stopped
    ("motion_now", "ball", 8, "still"),
    ("motion_now", "ball", 22, "down"),
    ("motion_now", "box", 12, "left"),
    ("motion_now", "cone", 29, "up"),
    ("motion_now", "cone", 15, "none"),
    ("count_now", "", 0, "0"),
    ("count_now", "", 8, "1"),
    ("count_now", "", 11, None),
    ("count_now", "", 15, "2"),
    ("count_now", "", 25, "1"),
    ("digit_now", "", 2, "none"),
    ("digit_now", "", 5, "7"),
    ("digit_now", "", 11, "none"),
    ("digit_now", "", 12, "3"),
    ("lamp_now", "", 8, "red"),
    ("lamp_now", "", 9, "purple"),
    ("lamp_now", "", 39, "blue"),
    ("digit_first", "", 3, "none"),
    ("digit_first", "", 39, "7"),
    ("digit_before", "", 9, "none"),
    ("digit_before", "", 12, "7"),
    ("entered", "first", 1, "none"),
    ("entered", "first", 15, "ball"),
    ("entered", "second", 15, "box"),
    ("entered", "third", 15, "none"),
    ("entered", "third", 35, "cone"),
    ("entered_side", "ball", 39, "left"),
    ("entered_side", "box", 5, "none"),
    ("entered_side", "box", 11, None),
    ("entered_side", "box", 15, "right"),
    ("entered_side", "cone", 35, "bottom"),
    ("left_last", "", 23, "none"),
    ("left_last", "", 24, "ball"),
    ("left_last", "", 39, "ball"),
    ("lamp_changes", "", 8, "0"),
    ("lamp_changes", "", 9, "1"),
    ("lamp_changes", "", 39, "2"),
    ("lamp_first", "", 8, None),  # it is still the first
    ("lamp_first", "", 9, "red"),
    ("lamp_first", "", 39, "red"),
    ("lamp_before", "", 8, "none"),
    ("lamp_before", "", 9, "red"),
    ("lamp_before", "", 39, "purple"),
    ("spark_first", "", 13, "none"),
    ("spark_first", "", 14, "yellow"),
    ("spark_first", "", 39, "yellow"),
    ("spark_last", "", 13, "none"),
    ("spark_last", "", 27, "yellow"),
    ("spark_last", "", 28, "white"),
    ("spark_column", "", 13, "none"),
    ("spark_column", "", 20, "leftmost"),
    ("spark_column", "", 28, "right"),
    ("spark_count", "", 13, "0"),
    ("spark_count", "", 14, "1"),
    ("spark_count", "", 39, "2"),
]


def answer(template: Template, subject: str, frame: int) -> str | None:
    return template.answer(STATES[frame], template.subjects.index(subject))


@pytest.mark.parametrize(("name", "subject", "frame", "expected"), KNOWN)
def test_answer_about_a_clip_planned_by_hand(name: str, subject: str, frame: int, expected: str | None) -> None:
    assert answer(BY_NAME[name], subject, frame) == expected


def test_known_answers_cover_every_template() -> None:
    assert len(TEMPLATES) == 19
    for template in TEMPLATES:
        assert len({row[3] for row in KNOWN if row[0] == template.name}) >= 2, template.name


def test_two_objects_that_come_in_together_have_no_order() -> None:
    clip = plan(things=(resting("ball", "red", (24, 84)), resting("box", "blue", (120, 84))))
    assert BY_NAME["entered"].answer(tell(clip)[5], 0) is None


def test_templates_have_unique_names_and_texts_and_enough_values() -> None:
    assert len(BY_NAME) == len({template.text for template in TEMPLATES}) == len(TEMPLATES)
    for template in TEMPLATES:
        assert template.group in GROUPS
        assert len(set(template.values)) == len(template.values) >= 4
        assert ("{}" in template.text) == (template.subjects != ("",))


@given(st.sampled_from(TEMPLATES), st.data(), st.text(max_size=8))
def test_options_are_four_different_values_with_the_answer_at_right(
    template: Template, data: st.DataObject, seed: str
) -> None:
    expected = data.draw(st.sampled_from(template.values))
    options, right = choose_options(template, expected, Dice(seed))
    assert len(options) == len(set(options)) == 4
    assert options[right] == expected
    assert set(options) <= set(template.values)


@given(st.integers(0, 10**9))
@settings(max_examples=25)
def test_answer_that_can_be_asked_is_one_of_the_values(number: int) -> None:
    for state in tell(write_clip(f"train/{number}")):
        for template in TEMPLATES:
            for place in range(len(template.subjects)):
                found = template.answer(state, place)
                assert found is None or found in template.values


def test_prompt_has_the_text_and_the_options_with_letters() -> None:
    question = Question("t", "detail", 3, 1.5, "What?", ("red", "none", "7", "left"), 2)
    assert question.prompt == "What?\nA. red B. none C. 7 D. left"
    assert question.letter == "C"
