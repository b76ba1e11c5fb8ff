"""Accuracy of VQA with ten human answers (VQAv2, TextVQA, VizWiz): three matches are a full score, leaving one out.

Items: "prediction", "answers" (human answers, ten of them), and for figures by group "answer_type", "question_type".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from .result import Item, Scores, Verdict, choose, mean_credit
from .vqa_text import normalize_evalai, normalize_evalai_tail, normalize_official, normalize_vlmevalkit, on_one_line

_NORMALIZERS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "official": normalize_official,
        "llava_textvqa": normalize_evalai,
        "lmms_textvqa": normalize_evalai,
        "lmms_vqav2": normalize_evalai_tail,
        "lmms_vizwiz": normalize_evalai_tail,
        "vlmevalkit": normalize_vlmevalkit,
    }
)
RULES = tuple(_NORMALIZERS)
NUM_ANSWERS = 10
FULL_MATCHES = 3


def parse(text: str, rule: str = "official") -> str:
    """Return a normalized answer. Every text is an answer, so nothing fails."""
    return choose(_NORMALIZERS, rule)(text)


def accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Return the mean of min(1, matches / 3) over the sets that leave one of the answers out; both are normalized."""
    num_matches = sum(answer == prediction for answer in answers)
    left_in = [num_matches - (answer == prediction) for answer in answers]
    return math.fsum(min(1.0, count / FULL_MATCHES) for count in left_in) / len(answers)


def judge(item: Item, rule: str = "official") -> Verdict:
    """Score one prediction against its human answers.

    official: vqaEval.py of GT-Vision-Lab/VQA. NOTE: it normalizes nothing, on either side, if all answers are the same
    string, so "Yes" scores 0 against ten times "yes". NOTE: official, lmms_vqav2 and lmms_vizwiz leave out all answers
    that are equal to one in every field; VQA's files number the answers, so here one is left out at a time.
    llava_textvqa (m4c_evaluator.py) insists on ten answers.
    Raises ValueError without answers, or for llava_textvqa if there are not ten.
    """
    prediction, answers = str(item["prediction"]), [str(answer) for answer in item["answers"]]
    if not answers or (rule == "llava_textvqa" and len(answers) != NUM_ANSWERS):
        raise ValueError(f"A question has {len(answers)} human answers; {rule} needs {NUM_ANSWERS}.")
    if rule == "official":
        prediction, answers = on_one_line(prediction), [on_one_line(answer) for answer in answers]
        if len(set(answers)) == 1:
            return Verdict(prediction, accuracy(prediction, answers))
    parsed = parse(prediction, rule)
    return Verdict(parsed, accuracy(parsed, [parse(answer, rule) for answer in answers]))


def score(items: Sequence[Item], rule: str = "official") -> Scores:
    """Return the accuracy, overall and by answer type and question type where items have them.

    VQA's own report shows 100 times these values, rounded to 2 places.
    """
    return mean_credit(items, lambda item: judge(item, rule), ("answer_type", "question_type"))
