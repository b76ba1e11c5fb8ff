"""ScienceQA's questions as conversations: what the golden values do not show."""

from __future__ import annotations

import pytest

from paddlemix.prepare.scienceqa_forms import conversation, instruction_and_output, released_prompt

PROBLEM = {
    "question": "Which is a cat?",
    "choices": ["x", "y"],
    "answer": 1,
    "hint": "Look at the image.",
    "image": "image.png",
    "lecture": "L",
    "solution": "S",
}


def test_released_form_has_the_image_first_and_no_labels():
    assert released_prompt(PROBLEM) == "<image>\nContext: Look at the image.\nWhich is a cat?\nA. x\nB. y"
    assert released_prompt({**PROBLEM, "image": None, "hint": ""}) == "Which is a cat?\nA. x\nB. y"


def test_braces_of_a_question_are_kept():
    problem = {**PROBLEM, "question": "What is {x} or {0}?", "hint": "{context}"}
    assert instruction_and_output(problem, "CQM-A")[0].startswith("Context: {context}\nQuestion: What is {x} or {0}?")


def test_unknown_form_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="Unknown form 'CQM-Z'; known are inputs CQM"):
        conversation("1", PROBLEM, "CQM-Z")


@pytest.mark.parametrize("problem", [{**PROBLEM, "answer": 2}, {**PROBLEM, "choices": list("abcdef")}])
def test_answer_beyond_the_letters_is_refused(problem):
    with pytest.raises(ValueError, match="5 is the most"):
        instruction_and_output(problem, "CQM-A")
