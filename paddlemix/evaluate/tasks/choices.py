"""Multiple-choice tasks: MMBench, CCBench, ScienceQA, SEED-Bench, AI2D, MMStar, RealWorldQA, MMMU."""

from __future__ import annotations

from collections.abc import Mapping

from .. import submission
from ..prompt_texts import OPTION_LETTER, OPTION_LETTER_CN, OPTION_LETTER_CN_LMMS, OPTIONS_CN_LMMS, OPTIONS_LMMS
from ..prompts import (
    Style,
    at_marks,
    choice,
    choice_vlmevalkit,
    mmbench_lmms,
    mmmu_lmms,
    mmstar_lmms,
    realworldqa_lmms,
    scienceqa,
    spaced_first,
)
from ..readers import choices, tables
from ..scores import choice as choice_scores
from ..scores import mmbench, mmmu, seed
from ..scores import scienceqa as scienceqa_scores
from .short_answers import ASSISTANT, LLAVA_TOKENS, LMMS_TOKENS, VLMEVALKIT_TOKENS
from .task import Scorer, Source, Task

_VLMEVALKIT = Style(choice_vlmevalkit, VLMEVALKIT_TOKENS, place=spaced_first)
_MMBENCH_TOKENS = 1024
_LMMS_EN = Style(mmbench_lmms(OPTIONS_LMMS, OPTION_LETTER), 1024, stop=ASSISTANT)
_LMMS_CN = Style(mmbench_lmms(OPTIONS_CN_LMMS, OPTION_LETTER_CN_LMMS), 256)
_LMMS_CC = Style(mmbench_lmms(OPTIONS_CN_LMMS, OPTION_LETTER_CN_LMMS, has_hint=False), 256)
_ENGLISH = {"llava": Style(choice(), _MMBENCH_TOKENS), "lmms": _LMMS_EN, "vlmevalkit": _VLMEVALKIT}
_CHINESE = {"llava": Style(choice(OPTION_LETTER_CN), _MMBENCH_TOKENS), "lmms": _LMMS_CN, "vlmevalkit": _VLMEVALKIT}


def _table(fields, *names: str) -> Source:
    files = {"questions": tuple(f"{name}.tsv" for name in names)}
    return Source(tables.reader(fields), files, images=("images",))


def _mmbench(name: str, description: str, styles: Mapping[str, Style], *tables_names: str) -> Task:
    return Task(
        name,
        description,
        (_table(tables.mmbench, *tables_names),),
        styles,
        Scorer.of(mmbench),
        "strict",
        "answer",
        ("mmbench", "mmbench_cn"),
        submission=submission.mmbench,
        submission_name=f"{name}.xlsx",
    )


def _choice(name: str, description: str, table: str, styles: Mapping[str, Style], rule: str = "strict") -> Task:
    return Task(name, description, (_table(tables.choice, table),), styles, Scorer.of(choice_scores), rule, "answer")


_REALWORLDQA = Scorer(
    ("strict",),
    lambda items, rule: choice_scores.score_realworldqa(items),
    lambda item, rule: choice_scores.judge_realworldqa(item),
)

TASKS = (
    _mmbench(
        "mmbench_en_dev",
        "MMBench in English, dev: right only if right in all rotations of the options",
        _ENGLISH,
        "MMBench_DEV_EN",
        "mmbench_dev_20230712",
        "mmbench_dev_en_20231003",
    ),
    _mmbench("mmbench_en_test", "MMBench in English, test: answers to submit", _ENGLISH, "MMBench_TEST_EN"),
    _mmbench("mmbench_cn_dev", "MMBench in Chinese, dev", _CHINESE, "MMBench_DEV_CN", "mmbench_dev_cn_20231003"),
    _mmbench("mmbench_cn_test", "MMBench in Chinese, test: answers to submit", _CHINESE, "MMBench_TEST_CN"),
    _mmbench("mmbench_en_dev_v11", "MMBench 1.1 in English, dev", _ENGLISH, "MMBench_DEV_EN_V11"),
    _mmbench("mmbench_en_test_v11", "MMBench 1.1 in English, test: answers to submit", _ENGLISH, "MMBench_TEST_EN_V11"),
    _mmbench("mmbench_cn_dev_v11", "MMBench 1.1 in Chinese, dev", _CHINESE, "MMBench_DEV_CN_V11"),
    _mmbench("mmbench_cn_test_v11", "MMBench 1.1 in Chinese, test: answers to submit", _CHINESE, "MMBench_TEST_CN_V11"),
    _mmbench("ccbench", "CCBench: questions on Chinese culture", {**_CHINESE, "lmms": _LMMS_CC}, "CCBench"),
    Task(
        "scienceqa",
        "ScienceQA, test: school questions, half of them with an image",
        (
            Source(
                choices.read_scienceqa,
                {"questions": ("problems.json",), "splits": ("pid_splits.json",)},
                images=("images/test", "images"),
            ),
            Source(
                choices.read_scienceqa_of_llava,
                {"questions": ("llava_test_CQM-A.json",)},
                images=("images/test", "images"),
            ),
            Source(tables.reader(tables.scienceqa), {"questions": ("ScienceQA_TEST.tsv",)}, images=("images",)),
        ),
        {"llava": Style(scienceqa, 1024), "lmms": Style(scienceqa, 16), "vlmevalkit": _VLMEVALKIT},
        Scorer.of(scienceqa_scores),
        "llava",
        "answer",
        submission=submission.llava,
        submission_name="scienceqa.jsonl",
    ),
    Task(
        "seed",
        "SEED-Bench: 19,242 questions on images and on the middle frames of videos",
        (
            Source(
                choices.read_seed,
                {"questions": ("SEED-Bench.json",)},
                {"frames": ("llava-seed-bench.jsonl",)},
            ),
        ),
        {"llava": Style(choice(), LLAVA_TOKENS), "lmms": Style(choice(), LMMS_TOKENS, stop=ASSISTANT)},
        Scorer.of(seed),
        "llava",
        "answer",
        ("seed_bench",),
        submission=submission.seed,
        submission_name="seed.jsonl",
    ),
    _choice(
        "seed_img",
        "SEED-Bench's questions on images alone",
        "SEEDBench_IMG",
        {"vlmevalkit": _VLMEVALKIT, "llava": Style(choice(), LLAVA_TOKENS), "lmms": Style(choice(), LMMS_TOKENS)},
    ),
    _choice(
        "ai2d",
        "AI2D, test: questions on diagrams of school books",
        "AI2D_TEST",
        {"lmms": Style(choice(), 16), "vlmevalkit": _VLMEVALKIT},
    ),
    _choice(
        "mmstar",
        "MMStar: 1,500 questions that need the image",
        "MMStar",
        {"lmms": Style(mmstar_lmms, LMMS_TOKENS), "vlmevalkit": _VLMEVALKIT},
    ),
    Task(
        "realworldqa",
        "RealWorldQA: 765 questions on photographs, most of them from vehicles",
        (_table(tables.choice, "RealWorldQA"),),
        {"lmms": Style(realworldqa_lmms, 16), "vlmevalkit": _VLMEVALKIT},
        _REALWORLDQA,
        "strict",
        "answer",
    ),
    Task(
        "mmmu",
        "MMMU, val: college questions of 30 subjects, with several images in the text",
        (_table(tables.mmmu, "MMMU_DEV_VAL", "MMMU_VAL"),),
        {"lmms": Style(mmmu_lmms, 16, place=at_marks), "vlmevalkit": _VLMEVALKIT},
        Scorer.of(mmmu),
        "mmmu",
        "answer",
        submission=submission.by_id,
        submission_name="mmmu.json",
    ),
)
