"""Short answers: VQA accuracy, GQA, ANLS, relaxed accuracy, TextVQA's key."""

from __future__ import annotations

import functools

import pytest

from paddlemix.evaluate.scores import anls, gqa, relaxed, textvqa, vqa, vqa_text


@pytest.mark.parametrize(("matches", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_accuracy_of_ten_answers_depends_on_the_number_of_matches(matches, expected):
    answers = ["yes"] * matches + [f"other {n}" for n in range(10 - matches)]
    for rule in vqa.RULES:
        credit = vqa.judge({"prediction": "yes", "answers": answers}, rule).credit
        assert credit == pytest.approx(expected)


def test_official_vqa_normalizes_nothing_if_all_answers_are_the_same():
    item = {"prediction": "Yes", "answers": ["yes"] * 10}
    assert [vqa.judge(item, rule).credit for rule in ("official", "llava_textvqa")] == [0, 1]
    assert vqa.judge({**item, "answers": ["yes"] * 9 + ["no"]}, "official").credit == 1


def test_llava_textvqa_insists_on_ten_answers():
    with pytest.raises(ValueError, match="has 9 human answers; llava_textvqa needs 10"):
        vqa.judge({"prediction": "x", "answers": ["x"] * 9}, "llava_textvqa")


@pytest.mark.parametrize("name", sorted(vqa_text.NORMALIZERS))
@pytest.mark.parametrize(
    "text", ["the Red Car", "two dogs", "it's 5.", "black/white", "  a   b ", "1,000", "whats up?"]
)
def test_normalizing_again_changes_nothing(name, text):
    normalize = vqa_text.NORMALIZERS[name]
    once = normalize(text)
    assert normalize(once).split() == once.replace("'s", " 's").split() if name == "evalai" else once == normalize(once)


def test_vqa_reports_by_answer_type():
    items = [
        {"prediction": "yes", "answers": ["yes"] * 9 + ["no"], "answer_type": "yes/no", "question_type": "is the"},
        {"prediction": "3", "answers": ["2"] * 10, "answer_type": "number", "question_type": "how many"},
    ]
    scores = vqa.score(items)
    assert scores.value() == 0.5
    assert (scores.value("accuracy/answer_type/yes/no"), scores.value("accuracy/answer_type/number")) == (1, 0)
    assert scores.figures["accuracy/question_type/how many"].count == 1


def test_gqa_calls_queries_open_and_all_others_binary():
    kinds = [("query", "Dog"), ("verify", "yes"), ("choose", "cat")]
    items = [{"prediction": text, "answer": "dog", "structural": kind} for kind, text in kinds]
    scores = gqa.score(items)
    assert (scores.value("accuracy/form/open"), scores.value("accuracy/form/binary")) == (1, 0)
    assert scores.figures["accuracy/form/binary"].count == 2
    assert gqa.score(items, "official").value() == 0


def slow_distance(first: str, second: str) -> int:
    @functools.cache
    def of(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(of(i - 1, j) + 1, of(i, j - 1) + 1, of(i - 1, j - 1) + (first[i - 1] != second[j - 1]))

    return of(len(first), len(second))


@pytest.mark.parametrize("pair", [("kitten", "sitting"), ("", "abc"), ("abc", ""), ("flaw", "lawn"), ("aa", "aaaa")])
def test_edit_distance_equals_its_definition_and_is_symmetric(pair):
    assert anls.edit_distance(*pair) == anls.edit_distance(*reversed(pair)) == slow_distance(*pair)


def test_anls_keeps_one_half_and_drops_less():
    assert anls.judge({"prediction": "abcd", "answers": ["abxx"]}).credit == 0.5
    assert anls.judge({"prediction": "abcde", "answers": ["abxxx"]}).credit == 0


def test_surplus_spaces_of_a_wrong_answer_raise_its_official_anls_only():
    item = {"prediction": "abcd" + " " * 10, "answers": ["abxx"]}
    assert anls.judge(item, "official").credit > 0.8
    assert anls.judge(item, "stvqa").credit == 0.5


def test_two_empty_texts_are_equal_except_under_stvqa():
    item = {"prediction": "", "answers": [""]}
    assert anls.judge(item, "official").credit == 1
    with pytest.raises(ValueError, match="not defined"):
        anls.judge(item, "stvqa")


@pytest.mark.parametrize(
    ("text", "number"), [("5", 5), ("50%", 0.5), ("1e3", 1000), ("%", None), ("1,000", None), ("five", None)]
)
def test_numbers_of_charts_are_plain_or_percentages(text, number):
    assert relaxed.number_of(text) == number


@pytest.mark.parametrize(("text", "is_right"), [("105", True), ("95", True), ("105.1", False), ("94.9", False)])
def test_relaxed_accuracy_accepts_five_percent_of_the_target(text, is_right):
    assert relaxed.is_right(text, "100") == is_right


def test_list_of_targets_counts_only_under_vlmevalkit():
    item = {"prediction": " blue ", "answer": "['red', 'Blue']"}
    assert [relaxed.judge(item, rule).credit for rule in relaxed.RULES] == [0, 1]
    assert relaxed.judge({"prediction": "[x", "answer": "[x"}, "vlmevalkit").credit == 1


def test_textvqa_refuses_a_question_of_two_lines():
    with pytest.raises(ValueError, match="Found no question in the prompt"):
        textvqa.question_of("What\nis this?\nAnswer the question using a single word or phrase.")
