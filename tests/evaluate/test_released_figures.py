"""Published figures of LLaVA 1.5 come out of its released reviews and of the counts of its released answers."""

from __future__ import annotations

import pytest
from released_reviews import review_rows

from paddlemix.evaluate.scores import gpt_review, pope, scienceqa

# True yes, false yes, true no, false no of the 13B model's released answers to POPE.
POPE_COUNTS = {
    "adversarial": (1182, 117, 1383, 318),
    "popular": (1182, 59, 1441, 318),
    "random": (1182, 31, 1379, 318),
}


def pope_items() -> list[dict]:
    pairs = [("Yes", "yes"), ("Yes", "no"), ("No", "no"), ("No", "yes")]
    return [
        {"prediction": text, "answer": label, "category": category}
        for category, counts in POPE_COUNTS.items()
        for (text, label), count in zip(pairs, counts, strict=True)
        for _ in range(count)
    ]


@pytest.mark.parametrize("rule", pope.RULES)
def test_pope_of_the_13b_model_is_the_published_mean_under_every_rule(rule):
    scores = pope.score(pope_items(), rule)
    by_category = {name: round(scores.value(f"f1/{name}"), 4) for name in POPE_COUNTS}
    assert by_category == {"adversarial": 0.8446, "popular": 0.8625, "random": 0.8714}
    assert round(100 * scores.value(), 1) == 85.9


def test_scienceqa_of_the_13b_model_is_the_published_accuracy():
    """1,445 of 2,017 questions with an image and 3,155 of all 4,241 were right."""
    groups = [("<image>", "B", 1445), ("<image>", "A", 572), ("", "B", 1710), ("", "A", 514)]
    items = [
        {"prediction": text, "answer": 1, "choices": ["x", "y"], "prompt": prompt}
        for prompt, text, count in groups
        for _ in range(count)
    ]
    scores = scienceqa.score(items)
    assert scienceqa.line(scores) == "Total: 4241, Correct: 3155, Accuracy: 74.39%, IMG-Accuracy: 71.64%"
    assert round(100 * scores.value(), 3) == 74.393 and round(100 * scores.value("accuracy/IMG"), 3) == 71.641


@pytest.mark.parametrize(("name", "ratio"), [("llava-v1.5-7b-eval1", "64.7"), ("llava-v1.5-13b-eval1", "72.8")])
def test_llava_bench_reviews_give_the_published_ratio(name, ratio):
    rows = review_rows(name)
    assert gpt_review.lines(rows, name)[1].split()[:2] == ["all", ratio]
    items = [{"review": "{:g} {:g}\nBecause".format(*row["tuple"]), "category": row["category"]} for row in rows]
    for rule in gpt_review.RULES:
        assert f"{gpt_review.score(items, rule).value():.1f}" == ratio
