"""Published figures of models, to stand beside one's own.

Tools, prompts, splits and rules move figures by several points: LLaVA 1.5 7B has 64.3 on MMBench dev in its own table
and 63.0 in xtuner's. Compare rows of one source with each other. Figures whose source does not say which split or
subset they are of (SEED and SQA of LLaVA-Phi-3-mini, SQA of PaddleMIX) are left out.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

ZOO = "LLaVA, docs/MODEL_ZOO.md"
RELEASED = "LLaVA's released answers, scored"
REVIEWS = "LLaVA's released reviews (eval1)"
XTUNER_FIRST = "xtuner, README of its LLaVA recipes"
XTUNER_VLMEVALKIT = "xtuner, pull request 285: VLMEvalKit"
XTUNER_FULL = "xtuner, configs/llava/README.md: full fine-tuning"
XTUNER_PHI3 = "xtuner, README of LLaVA-Phi-3-mini"
TAGGER = "PaddleMIX, PP-InsCapTagger"
V15_7B, V15_7B_LORA, V15_13B = "LLaVA-1.5 7B", "LLaVA-1.5 7B, LoRA", "LLaVA-1.5 13B"
V16_7B, V16_13B, V16_34B = "LLaVA-1.6 7B (Vicuna)", "LLaVA-1.6 13B", "LLaVA-1.6 34B"
PHI3, LLAMA3 = "LLaVA-Phi-3-mini", "LLaVA-Llama-3-8B v1.1"


@dataclass(frozen=True)
class Published:
    """A figure as it is printed: a fraction in percent. figure: its name in `Scores.figures`. note: what differs."""

    task: str
    figure: str
    model: str
    value: float
    source: str
    note: str = ""


# Task, figure, and what the source has: a value for each of MODELS, None where it has none.
_ZOO_MODELS = (V15_7B, V15_7B_LORA, V15_13B, V16_7B, V16_13B, V16_34B)
_ZOO = (
    ("vqav2", "accuracy", (78.5, 79.1, 80.0, 81.8, None, None), "test-dev"),
    ("gqa", "accuracy", (62.0, 63.0, 63.3, 64.2, None, None), ""),
    ("vizwiz", "accuracy", (50.0, 47.8, 53.6, None, None, None), "test"),
    ("scienceqa", "accuracy/IMG", (66.8, 68.4, 71.6, None, None, None), ""),
    ("textvqa", "accuracy", (58.2, 58.2, 61.3, 64.9, None, None), ""),
    ("pope", "f1", (85.9, 86.4, 85.9, None, None, None), ""),
    ("mme", "perception", (1510.7, 1476.9, 1531.3, None, None, None), ""),
    ("mmbench_en_dev", "circular", (64.3, 66.1, 67.7, 67.4, 70.0, 79.3), ""),
    ("mmbench_cn_dev", "circular", (58.3, 58.9, 63.6, 60.6, 64.4, 79.0), ""),
    ("seed", "accuracy", (58.6, 60.1, 61.6, None, None, None), ""),
    ("llava_bench", "ratio", (65.4, 67.9, 72.5, None, None, None), "judge: gpt-4-0314"),
    ("mmvet", "total", (31.1, 30.2, 36.1, None, None, None), "judge: GPT-4"),
)
# xtuner's columns: MMBench test en, dev en, test cn, dev cn, CCBench, and MME's perception and cognition in one.
_XTUNER_COLUMNS = (
    ("mmbench_en_test", "circular"),
    ("mmbench_en_dev", "circular"),
    ("mmbench_cn_test", "circular"),
    ("mmbench_cn_dev", "circular"),
    ("ccbench", "circular"),
    ("mme", "total"),
)
_XTUNER = (
    (XTUNER_FIRST, "LLaVA-v1.5-7B (XTuner)", (67.9, 68.0, 60.1, 58.2, 27.0)),
    (XTUNER_FIRST, "LLaVA-InternLM-7B (XTuner)", (68.8, 68.4, 67.4, 64.3, 34.6)),
    (XTUNER_VLMEVALKIT, "LLaVA-v1.5-7B (XTuner)", (67.7, 69.2, 61.0, 59.7, 28.4, 1716.0)),
    (XTUNER_VLMEVALKIT, "LLaVA-v1.5-13B (XTuner)", (68.8, 69.5, 64.7, 63.1, 32.9, 1766.0)),
    (XTUNER_VLMEVALKIT, "LLaVA-InternLM-7B (XTuner)", (69.0, 68.5, 66.7, 63.8, 37.3, 1637.0)),
    (XTUNER_VLMEVALKIT, "LLaVA-InternLM2-7B (XTuner)", (73.3, 74.6, 71.7, 72.0, 42.5, 1700.0)),
    (XTUNER_VLMEVALKIT, "LLaVA-InternLM2-20B (XTuner)", (75.1, 73.5, 73.7, 72.8, 46.3, 1868.0)),
    (XTUNER_FULL, V15_7B, (65.2, 63.0, 57.3, 57.4, 25.2, 1775.0)),
    (XTUNER_FULL, "LLaVA-1.5 7B, trained by xtuner", (68.6, 68.0, 61.5, 61.4, 26.5, 1786.0)),
)
_OTHERS = (
    Published("textvqa", "accuracy", V15_7B, 46.1, "a third party's note, lmms-eval", "without OCR tokens"),
    *(
        Published("pope", f"f1/{category}", V15_13B, value, RELEASED)
        for category, value in (("adversarial", 84.46), ("popular", 86.25), ("random", 87.14))
    ),
    Published("mme", "perception", V15_13B, 1531.32, RELEASED),
    Published("mme", "cognition", V15_13B, 295.36, RELEASED),
    Published("scienceqa", "accuracy", V15_13B, 74.39, RELEASED),
    Published("scienceqa", "accuracy/IMG", V15_13B, 71.64, RELEASED),
    Published("llava_bench", "ratio", V15_7B, 64.7, REVIEWS),
    Published("llava_bench", "ratio", V15_13B, 72.8, REVIEWS),
    Published("mmbench_en_test", "circular", V15_7B, 66.5, XTUNER_PHI3),
    Published("mmbench_en_test", "circular", PHI3, 69.2, XTUNER_PHI3),
    Published("mmbench_en_test", "circular", LLAMA3, 72.3, XTUNER_PHI3),
    Published("ccbench", "circular", LLAMA3, 31.6, XTUNER_PHI3),
    Published("mmbench_en_dev", "circular", PHI3, 70.96, "xtuner, issue 640: xtuner mmbench"),
    Published("mmbench_en_dev", "circular", PHI3, 54.98, "xtuner, issue 640: VLMEvalKit", "the same weights"),
    Published("mmmu", "accuracy", PHI3, 41.4, XTUNER_PHI3),
    Published("ai2d", "accuracy", PHI3, 69.3, XTUNER_PHI3),
    Published("pope", "f1", PHI3, 87.3, XTUNER_PHI3),
    Published("gqa", "accuracy", PHI3, 61.5, XTUNER_PHI3),
    Published("textvqa", "accuracy", PHI3, 57.8, XTUNER_PHI3),
    Published("mme", "perception", PHI3, 1477.0, XTUNER_PHI3),
    Published("mme", "cognition", PHI3, 313.0, XTUNER_PHI3),
    *(
        Published(task, "accuracy", f"PaddleMIX, {part} of the data", value, TAGGER)
        for task, values in (("textvqa", (57.12, 57.6)), ("vqav2", (78.32, 79.0)), ("gqa", (62.14, 62.95)))
        for part, value in zip(("half", "all"), values, strict=True)
    ),
)


@functools.cache
def every_published() -> tuple[Published, ...]:
    """Return all published figures."""
    zoo = [
        Published(task, figure, model, value, ZOO, note)
        for task, figure, values, note in _ZOO
        for model, value in zip(_ZOO_MODELS, values, strict=True)
        if value is not None
    ]
    xtuner = [
        Published(task, figure, model, value, source)
        for source, model, values in _XTUNER
        for (task, figure), value in zip(_XTUNER_COLUMNS, values, strict=False)
    ]
    return (*zoo, *xtuner, *_OTHERS)


def published_for(task: str, figures: Sequence[str]) -> list[Published]:
    """Return the published figures of a task, in the order of its own figures; models without those are left out."""
    return [one for name in figures for one in every_published() if (one.task, one.figure) == (task, name)]
