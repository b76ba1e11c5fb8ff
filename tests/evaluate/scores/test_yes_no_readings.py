"""Yes and no: what each rule reads."""

from __future__ import annotations

import pytest

from paddlemix.evaluate.scores import mme, pope, yes_no


@pytest.mark.parametrize("text", ["Yes", "yes.", " YES, it is", "Yes! There isn't any doubt", "**Yes**"])
def test_strict_reads_a_yes_at_the_start(text):
    assert yes_no.parse(text) == "yes"


@pytest.mark.parametrize(
    "text", ["", "It is yes", "Yes and no", "No, yes", "yesterday", "Nope", "maybe", "not", "n", "Y"]
)
def test_strict_reads_nothing_else(text):
    assert yes_no.parse(text) is None


def test_llava_takes_everything_without_a_no_for_a_yes():
    assert [yes_no.parse(text, "llava") for text in ("", "NO", "Nope", "\nNo", "not", "no, yes")] == [
        *["yes"] * 4,
        *["no"] * 2,
    ]


def test_official_mme_reads_the_first_four_characters():
    assert [yes_no.parse(text, "official_mme") for text in ("snow", "eyes", "it's no", "y", "I no")] == [
        *["no", "yes", None, None, "no"]
    ]


def pope_items(texts: list[str], label: str = "yes") -> list[dict]:
    return [{"prediction": text, "answer": label, "category": "random"} for text in texts]


def test_pope_counts_a_failed_answer_as_missed_except_under_lmms():
    items = pope_items(["Yes", "maybe"])
    strict, lmms = pope.score(items, "strict"), pope.score(items, "lmms")
    assert (strict.value("recall/random"), lmms.value("recall/random")) == (0.5, 1.0)
    assert strict.num_failed == lmms.num_failed == 1
    assert strict.value("accuracy/random") == lmms.value("accuracy/random") == 0.5


def test_pope_without_a_yes_is_undefined_under_llava_and_zero_under_others():
    items = pope_items(["No", "No"])
    assert pope.score(items, "llava").value() is None
    assert pope.score(items, "vlmevalkit").value() == 0
    with pytest.raises(ValueError, match="not defined"):
        pope.lines(items)


def test_pope_refuses_a_label_that_is_neither():
    with pytest.raises(ValueError, match="Found the label 'maybe', expected yes or no"):
        pope.score(pope_items(["Yes"], "maybe"))


def mme_items(category: str, texts: list[str]) -> list[dict]:
    labels = ["Yes", "No"] * len(texts)
    return [
        {"prediction": text, "answer": labels[place], "category": category, "image": str(place // 2)}
        for place, text in enumerate(texts)
    ]


def test_mme_adds_accuracy_of_questions_and_of_whole_images():
    items = mme_items("count", ["Yes", "No", "Yes", "Yes"])
    scores = mme.score(items)
    assert scores.value("count") == 75 + 50
    assert scores.figures["perception"].count == 4 and scores.value("cognition") is None
    assert "no items of existence" in scores.notes[0] and "count" not in scores.notes[0].split(":")[0]


def test_mme_leaves_out_an_image_of_which_one_answer_is_missing():
    scores = mme.score(mme_items("count", ["Yes", "No", "Yes"]))
    assert scores.value("count") == 200 and scores.num_items == 2
    assert "left out, because the other question of the image has no answer: 1" in scores.notes[-1]


def test_mme_refuses_an_image_with_three_questions_and_unknown_categories():
    with pytest.raises(ValueError, match="Image '0' has 3 questions, expected 2"):
        mme.score([{**item, "image": "0"} for item in mme_items("count", ["Yes", "No", "Yes"])])
    with pytest.raises(ValueError, match="Unknown categories of MME: counting"):
        mme.score(mme_items("counting", ["Yes", "No"]))
