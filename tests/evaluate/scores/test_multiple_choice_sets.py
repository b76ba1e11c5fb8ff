"""Sets of multiple-choice questions: rotations of MMBench, columns of ScienceQA, MMMU, MMStar, RealWorldQA, SEED."""

from __future__ import annotations

import pytest

from paddlemix.evaluate.scores import choice, mmbench, mmmu, scienceqa, seed

TEXTS = ["cat", "dog", "bird", "fish"]


def question(base: int, letters: str, category: str = "coarse_perception", l2: str = "logic_reasoning") -> list[dict]:
    """Return the rotations of a question whose right answer wanders from A on; letters are the predictions."""
    rows = []
    for turn, letter in enumerate(letters):
        texts = TEXTS[-turn:] + TEXTS[:-turn] if turn else TEXTS
        rows.append(
            {
                "index": base + turn * mmbench.ROTATION,
                "prediction": letter,
                "answer": "ABCD"[turn],
                "options": dict(zip("ABCD", texts, strict=True)),
                "category": category,
                "l2-category": l2,
                "split": "dev",
            }
        )
    return rows


def test_question_counts_only_if_all_rotations_are_right():
    scores = mmbench.score(question(1, "ABCD") + question(2, "ABCA") + question(3, "BBCD"))
    assert scores.value() == pytest.approx(1 / 3)
    assert scores.value("vanilla") == pytest.approx(2 / 3)
    assert scores.figures["circular"].count == 3 and scores.num_items == 12
    assert scores.value("circular/l2-category/LR") == scores.value("circular/split/dev") == pytest.approx(1 / 3)


def test_missing_rotations_are_reported():
    rows = question(1, "ABCD") + question(2, "AB") + question(3, "A") + question(4, "ABCD")[1:]
    scores = mmbench.score(rows)
    assert scores.figures["circular"].count == 3 and scores.value() == 1
    assert scores.notes == (
        "rows not scored, because the first rotation of their question is missing: 3",
        "1 question has fewer rotations than options",
        "1 question has no rotations, others do",
    )
    assert mmbench.score(question(1, "A") + question(2, "A")).notes == ()


def test_index_that_occurs_twice_is_refused():
    with pytest.raises(ValueError, match="Index 1 occurs twice"):
        mmbench.score(question(1, "A") * 2)


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_missing_prediction_is_wrong_under_every_rule(missing):
    for rule in mmbench.RULES:
        scores = mmbench.score([{**question(1, "A")[0], "prediction": missing}], rule)
        assert scores.value() == 0 and scores.num_failed == 1


def science(text: str | None, prompt: str = "<image>\nQ", **columns) -> dict:
    return {"prediction": text, "answer": 1, "choices": ["x", "y"], "prompt": prompt, **columns}


def test_missing_answer_is_wrong_without_being_one_of_the_images():
    scores = scienceqa.score([science("B"), science(None), science("A", "Q")])
    assert scores.value() == pytest.approx(1 / 3) and scores.figures["accuracy/IMG"].count == 1
    assert scores.notes == ("1 question has no answer",)
    first_version = scienceqa.score([science("The answer is B."), science(None)], "llava_v1")
    assert first_version.value() == 1 and first_version.figures["accuracy"].count == 1


def test_letter_beyond_the_choices_is_failed():
    assert scienceqa.score([science("E")]).num_failed == 1


def test_columns_of_papers_are_counted_where_they_are_known():
    items = [
        science("B", "Q", subject="natural science", grade="grade3", hint=""),
        science("A", "<image>\nQ", subject="language science", grade="grade12", hint="a text"),
    ]
    figures = scienceqa.score(items).figures
    assert {name: (figure.value, figure.count) for name, figure in figures.items()} == {
        "accuracy": (0.5, 2),
        "accuracy/IMG": (0, 1),
        "accuracy/NAT": (1, 1),
        "accuracy/NO": (1, 1),
        "accuracy/G1-6": (1, 1),
        "accuracy/LAN": (0, 1),
        "accuracy/TXT": (0, 1),
        "accuracy/G7-12": (0, 1),
    }


def test_line_without_images_is_refused():
    with pytest.raises(ValueError, match="IMG-Accuracy is not defined"):
        scienceqa.line(scienceqa.score([science("B", "Q")]))


def test_mmmu_fails_where_the_original_guesses():
    item = {"prediction": "dog", "answer": "B", "options": ["cat", "dog"], "subject": "Art"}
    assert mmmu.judge(item).is_failed
    assert mmmu.judge(item, "strict").credit == 1


def test_mmmu_open_answers_match_by_number_or_text():
    item = {"prediction": "So the total is 1,234 cm", "answer": ["1234.00", "no"], "options": []}
    assert mmmu.judge(item).credit == 1
    assert mmmu.judge({**item, "answer": "1235"}).credit == 0


def test_mmmu_reads_a_decimal_with_commas_as_two_numbers():
    assert mmmu.parse_open("1,234.5") == [1234.5, 1234.0, 234.5]
    assert mmmu.parse_open("is 1,234.5 cm") == ["1,234.5 cm", 1234.0, 234.5]


def test_mmstar_is_the_mean_of_its_categories():
    options = dict(zip("AB", "xy", strict=True))
    rows = [("A", "m"), ("A", "m"), ("B", "m"), ("A", "n")]
    items = [{"prediction": text, "answer": "A", "options": options, "category": name} for text, name in rows]
    scores = choice.score(items)
    assert scores.value() == 0.75 and scores.value("mean_of_categories") == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize(
    ("text", "answer", "credit"), [("B.", "B", 1), ("b", "B", 0), ("Two.", "two", 1), ("2 cars", "2", 0)]
)
def test_realworldqa_takes_a_letter_or_an_equal_text(text, answer, credit):
    assert choice.judge_realworldqa({"prediction": text, "answer": answer}).credit == credit


def test_seed_reports_images_and_videos():
    rows = [("A", "image", "Scene"), ("A. x", "video", "Action"), ("a", "image", "Scene")]
    items = [{"prediction": p, "answer": "A", "data_type": kind, "question_type": name} for p, kind, name in rows]
    llava, lmms = seed.score(items, "llava"), seed.score(items, "lmms")
    assert (llava.value("accuracy/data_type/image"), llava.num_failed) == (0.5, 2)
    assert lmms.value() == 1 and lmms.figures["accuracy/question_type/Scene"].count == 2
