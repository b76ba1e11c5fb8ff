"""The points that GPT-4 gave in LLaVA's released reviews of LLaVA-Bench in the wild (reviews/*-eval1.jsonl, 32cebc3).

Only the numbers: for each of the 60 questions its category and the points of the reference and of the model.
"""

from __future__ import annotations

CATEGORIES = {"c": "llava_bench_conv", "d": "llava_bench_detail", "x": "llava_bench_complex"}
_ASKED = "cdxxccdxdxxccxdxcdxdxcxxxdxcccdxcxxxcdxdxcxcxdxdxcxcdxcdxdxx"
_POINTS = {
    "llava-v1.5-7b-eval1": """
        7 9, 8 6, 8 6, 9 8, 9 2, 9 2, 9 2, 8 7.5, 9 6, 8 9, 9 8.5, 10 10, 8 6, 9 7, 8 7,
        8 9, 9 8.5, 9 5, 9 7.5, 9 4, 9 7.5, 9 2, 8 7.5, 9 7.5, 9 8, 8 5, 8 6, 9 9, 9 2, 9 2,
        9 4, 8 6, 10 10, 9 6.5, 5 7, 9 6, 9 4, 9 2, 9 2, 9 3, 9 3, 9 2, 9 4, 9 6, 9 6,
        9 2, 9 6, 9 2, 9 7, 7 4, 9 6, 9 1, 9 3, 8 7, 10 10, 9 6, 9 7, 9 6, 9 9, 8 4""",
    "llava-v1.5-13b-eval1": """
        8 10, 9 6.5, 8 6, 9 8.5, 9 2, 9 2, 9 6, 8 7.5, 9 7, 8 9, 8 9, 10 10, 8 9, 9 7, 8 3,
        8 9, 9 8.5, 9 6, 9 8.5, 8 4, 9 8.5, 8 9, 8 7.5, 9 7.5, 9 8.5, 9 6, 8 7, 9 9, 10 10, 9 2,
        9 3, 8 5, 10 10, 9 7.5, 6 9, 9 6, 8 4, 9 3, 9 4, 9 3, 9 2, 9 1, 9 6, 9 7, 9 7,
        9 2, 9 6, 8 5, 9 5, 4 6, 9 6, 9 1, 9 5, 8 9, 10 10, 9 6, 9 7, 9 4, 9 9, 8 6""",
}


def review_rows(name: str) -> list[dict]:
    """Return the rows of a review file by the file's name without its ending; KeyError for any other."""
    pairs = [[float(number) for number in pair.split()] for pair in _POINTS[name].split(",")]
    return [
        {"question_id": number, "category": CATEGORIES[kind], "tuple": pair}
        for number, (kind, pair) in enumerate(zip(_ASKED, pairs, strict=True))
    ]
