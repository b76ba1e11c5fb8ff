"""Compare every case of a file of golden scores with our scorers: each group of cases has a function here.

A function yields (name, expected, ours) for each value that a case states. `ours` is called, so that what it raises
counts as well. A case that needs files that are not at hand raises NotAtHand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from golden_sets import captions, mmbench_circular, pope_end_to_end, scienceqa_end_to_end
from released_reviews import review_rows

from paddlemix.evaluate.scores import (
    anls,
    choice,
    gpt_review,
    gqa,
    hallusion,
    letters,
    mme,
    mmmu,
    ocrbench,
    pope,
    relaxed,
    scienceqa,
    seed,
    textvqa,
    vqa,
    vqa_text,
    yes_no,
)
from paddlemix.prepare import scienceqa_forms

Case = Mapping[str, Any]
Value = tuple[str, Any, Callable[[], Any]]


class NotAtHand(Exception):
    """Say which files a case needs."""


def vqa_normalise(case: Case, group: Case) -> Iterator[Value]:
    text = case["in"]
    columns = {"evalai": "evalai", "vqa_punct_then_digit": "official", "vlmevalkit_process_answer": "vlmevalkit"}
    for column, rule in columns.items():
        if column in case:
            yield column, case[column], lambda rule=rule: vqa_text.NORMALIZERS[rule](text)


def vqa_accuracy(case: Case, group: Case) -> Iterator[Value]:
    rules = {
        "vqa_official_v1_code": "official",
        "vlmevalkit_textvqa": "vlmevalkit",
        "vlmevalkit_vizwiz": "vlmevalkit",
        **{name: name for name in ("llava_textvqa", "lmms_textvqa", "lmms_vqav2", "lmms_vizwiz")},
    }
    item = {"prediction": case["pred"], "answers": case["answers"]}
    for column in case.keys() - {"pred", "answers"}:
        yield column, case[column], lambda rule=rules[column]: vqa.judge(item, rule).credit


def textvqa_question(case: Case, group: Case) -> Iterator[Value]:
    yield "value", case["value"], lambda: textvqa.question_of(case["prompt"])


def anls_values(case: Case, group: Case) -> Iterator[Value]:
    item = {"prediction": case["pred"], "answers": case["answers"]}
    for column in case.keys() - {"pred", "answers"}:
        yield column, case[column], lambda rule=column: anls.judge(item, rule).credit


def relaxed_accuracy(case: Case, group: Case) -> Iterator[Value]:
    item = {"prediction": case["pred"], "answer": case["target"]}
    for column in case.keys() - {"pred", "target"}:
        yield column, case[column], lambda rule=column: relaxed.judge(item, rule).credit == 1


def pope_parse(case: Case, group: Case) -> Iterator[Value]:
    text = case["text"]
    yield "llava", case["llava"], lambda: yes_no.parse(text, "llava")
    yield "vlmevalkit", case["vlmevalkit"], lambda: (yes_no.parse(text, "vlmevalkit") or "unknown").capitalize()
    expected = case["lmms_pred"] if case["lmms_pred"] in ("yes", "no") else None
    yield "lmms_pred", expected, lambda: yes_no.parse(text, "lmms_pope")


def pope_metrics(case: Case, group: Case) -> Iterator[Value]:
    items = [{"prediction": text, "answer": label, "category": "x"} for text, label in case["rows"]]
    yield "llava_printed", case["llava_printed"], lambda: pope.lines(items)[1:]
    names = {"pope_f1_score": "f1/x", "pope_yes_ratio": "yes_ratio/x"}
    for column, expected in case["lmms"].items():
        name = names.get(column, column.removeprefix("pope_") + "/x")
        yield column, expected, lambda name=name: pope.score(items, "lmms").value(name)


def mme_parse(case: Case, group: Case) -> Iterator[Value]:
    text = case["text"]
    yield "official", case["official"], lambda: mme.parse(text, "official") or "other"
    yield "lmms", case["lmms"], lambda: mme.parse(text, "lmms") or "other"
    yield "vlmevalkit", case["vlmevalkit"], lambda: (mme.parse(text, "vlmevalkit") or "unknown").capitalize()


def mme_score(case: Case, group: Case) -> Iterator[Value]:
    keys = ("category", "image", "answer", "prediction")
    items = [dict(zip(keys, row, strict=True)) for row in case["rows"]]
    present = {item["category"] for item in items}
    missing = [name for name in (*mme.PERCEPTION, *mme.COGNITION) if name not in present]
    right = [(name, answer) for name in missing for answer in ("Yes", "No")]
    filled = items + [dict(zip(keys, (name, "filled", word, word), strict=True)) for name, word in right]
    yield "official_printed", case["official_printed"], lambda: mme.lines(mme.score(filled, "official"))
    yield "lmms_sum", case["lmms_sum"], lambda: mme.score(items, "lmms").value("total")
    for column, expected in case["vlmevalkit"].items():
        name = {"reasoning": "cognition"}.get(column, column)
        yield f"vlmevalkit {column}", expected, lambda name=name: mme.score(filled, "vlmevalkit").value(name)


def mcq_letter(case: Case, group: Case) -> Iterator[Value]:
    options = json.loads(re.search(r"choices = (\{.*?\})", group["note"]).group(1))
    read = {
        "vlmevalkit": lambda: letters.parse(case["pred"], options, "vlmevalkit") or False,
        "xtuner": lambda: letters.parse(case["pred"], options, "xtuner") or "",
        "lmms_mmbench": lambda: letters.parse(case["pred"], options, "lmms_mmbench") or False,
        "lmms_mcq_extract": lambda: letters.parse(case["pred"], options, "lmms_extract") or "",
    }
    for column in case.keys() - {"pred"}:
        yield column, case[column], read[column]


def scienceqa_letter(case: Case, group: Case) -> Iterator[Value]:
    choices = ["x", "y", "z"]  # the group's note: 3 choices, answer 1
    if "script_printed" in case:
        yield from _scienceqa_line(case, group, choices)
        return
    item = {"prediction": case["pred"], "answer": 1, "choices": choices}
    yield "llava_parsed", case["llava_parsed"], lambda: scienceqa.judge(item, "llava").parsed or "FAILED"
    index = scienceqa.index_of(scienceqa.parse(case["pred"], choices, "llava"), choices)
    yield "llava_idx", case["llava_idx"], lambda: index
    yield "lmms_hit", case["lmms_hit"], lambda: scienceqa.judge(item, "lmms").credit


def _scienceqa_line(case: Case, group: Case, choices: list[str]) -> Iterator[Value]:
    """Compare the printed line. Answers that the file does not hold are wrong ones; the last one is missing."""
    texts = [row["pred"] for row in group["cases"] if "pred" in row]
    texts += ["FAILED"] * (case["count"] - 1 - len(texts)) + [None]
    items = [{"prediction": text, "answer": 1, "choices": choices, "prompt": "<image>"} for text in texts]
    scores = scienceqa.score(items, "llava")
    yield "script_printed", case["script_printed"], lambda: scienceqa.line(scores)
    yield "acc", case["acc"], lambda: scores.value() * 100
    yield "correct", case["correct"], lambda: round(scores.value() * case["count"])
    yield "missing", case["missing_prediction_output"], lambda: scienceqa.judge(items[-1]).parsed or "FAILED"


def scienceqa_convert(case: Case, group: Case) -> Iterator[Value]:
    problems, _ = json.JSONDecoder().raw_decode(group["note"], group["note"].index("{"))
    form = case["format"].removeprefix("jsonl ")
    write = scienceqa_forms.flat_row if case["format"].startswith("jsonl ") else scienceqa_forms.conversation
    yield "value", case["value"], lambda: [write(name, problem, form) for name, problem in problems.items()]


def seed_ai2d(case: Case, group: Case) -> Iterator[Value]:
    item = {"prediction": case["pred"], "answer": "A"}  # the group's note
    yield "seed_llava", case["seed_llava"], lambda: seed.judge(item, "llava").credit == 1
    yield "seed_lmms", case["seed_lmms"], lambda: seed.judge(item, "lmms").credit
    yield "ai2d_lmms", case["ai2d_lmms"], lambda: choice.judge(item, "lmms_ai2d").credit


def gqa_match(case: Case, group: Case) -> Iterator[Value]:
    item = {"prediction": case["pred"], "answer": case["answer"]}
    yield "llava_prediction", case["llava_prediction"], lambda: gqa.parse(case["pred"], "llava")
    yield "llava_hit", case["llava_hit"], lambda: gqa.judge(item, "llava").credit == 1
    yield "lmms", case["lmms"], lambda: gqa.judge(item, "lmms").credit
    yield "vlmevalkit", case["vlmevalkit"], lambda: gqa.judge(item, "vlmevalkit").credit


def review_score(case: Case, group: Case) -> Iterator[Value]:
    for rule in case.keys() - {"review"}:
        yield rule, case[rule], lambda rule=rule: list(gpt_review.points_or_failed(case["review"], rule))


# Rows that a file describes in words instead of listing them; those here give what it says was printed.
_DESCRIBED_REVIEWS = {
    "with a failed review": [{"category": "conv", "tuple": pair} for pair in ([8, 9], [-1, -1])],
    "no category, score": [{"score": pair} for pair in ([4, 6], [6, 7])],
    "zero reference": [{"category": "conv", "tuple": [0, 5]}],
}


def review_summary(case: Case, group: Case) -> Iterator[Value]:
    if "file" in case:
        name = Path(case["file"]).stem
        try:
            rows = review_rows(name)
        except KeyError:
            raise NotAtHand(case["file"]) from None
        yield "printed", case["printed"], lambda: gpt_review.lines(rows, name)
        return
    rows = _DESCRIBED_REVIEWS[case["rows"]] if isinstance(case["rows"], str) else case["rows"]
    yield "printed", case["printed"], lambda: gpt_review.lines(rows, "review_x")


def mmmu_open(case: Case, group: Case) -> Iterator[Value]:
    yield "parsed", case["parsed"], lambda: sorted(map(str, mmmu.parse_open(case["pred"])))
    yield "hit", case["hit"], lambda: mmmu.is_right(mmmu.parse_open(case["pred"]), case["gold"])


def mmmu_choice(case: Case, group: Case) -> Iterator[Value]:
    options = ["cat", "dog", "bird"]  # the group's note
    yield "value", case["value"], lambda: mmmu.parse_choice(case["pred"], options) or "random"


def ocrbench_value(case: Case, group: Case) -> Iterator[Value]:
    answers = case["answer"] if isinstance(case["answer"], list) else [case["answer"]]
    category = ocrbench.FORMULAS if case["dataset"] == "HME100k" else "Doc-oriented VQA"
    item = {"prediction": case["pred"], "answers": answers, "category": category}
    yield "value", case["value"], lambda: ocrbench.judge(item, "lmms").credit


def hallusion_rating(case: Case, group: Case) -> Iterator[Value]:
    items = [{**row, "answer": "Yes", "prediction": "Yes" if row["score"] else "No"} for row in case["rows"]]
    yield "value", case["value"], lambda: _hallusion_rows(hallusion.score(items))


def _hallusion_rows(scores: hallusion.Scores) -> list[dict]:
    ends = ["", *(name.removeprefix("aAcc") for name in scores.figures if name.startswith("aAcc/"))]
    return [
        {
            "split": end.removeprefix("/") or "Overall",
            **{kind: scores.value(kind + end) * 100 for kind in ("aAcc", "fAcc", "qAcc")},
        }
        for end in ends
    ]


def not_at_hand(case: Case, group: Case) -> Iterator[Value]:
    raise NotAtHand(group["source"][0])


GROUPS: dict[str, Callable[[Case, Case], Iterator[Value]]] = {
    "vqa_normalise": vqa_normalise,
    "vqa_accuracy_ten_answers": vqa_accuracy,
    "textvqa_question_from_prompt": textvqa_question,
    "anls": anls_values,
    "relaxed_accuracy": relaxed_accuracy,
    "pope_parse": pope_parse,
    "pope_metrics": pope_metrics,
    "mme_parse": mme_parse,
    "mme_score": mme_score,
    "mme_llava15_13b_end_to_end": not_at_hand,
    "mcq_letter": mcq_letter,
    "mcq_letter_two_options": mcq_letter,
    "mmbench_circular": mmbench_circular,
    "scienceqa": scienceqa_letter,
    "scienceqa_convert": scienceqa_convert,
    "seed_ai2d_gqa_match": seed_ai2d,
    "gqa": gqa_match,
    "gpt_review_parse_score": review_score,
    "summarize_gpt_review": review_summary,
    "mmmu_open": mmmu_open,
    "mmmu_mcq": mmmu_choice,
    "ocrbench": ocrbench_value,
    "hallusionbench": hallusion_rating,
    "captions": captions,
    "vizwiz_submission_llava15_13b": not_at_hand,
}


def values_of(name: str, case: Case, group: Case, answers: Path | None) -> Iterator[Value]:
    """Yield the values of a case. answers: a folder with the released answers, for the cases that need them."""
    whole = {"pope_llava15_13b_end_to_end": pope_end_to_end, "scienceqa_llava15_13b_end_to_end": scienceqa_end_to_end}
    if name not in whole:
        yield from GROUPS[name](case, group)
    elif answers is None:
        raise NotAtHand("the released answers: give their folder with --answers")
    else:
        yield from whole[name](case, answers)
