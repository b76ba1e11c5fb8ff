"""OCRBench: the number of questions whose answer contains a reference, of 1,000.

Items: "prediction", "answers" (references), "category" (one of ten). Figures are counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from .result import Figure, Item, Scores, Verdict, choose, grouped

RULES = ("lmms", "vlmevalkit")
RECOGNITION = (
    "Regular Text Recognition",
    "Irregular Text Recognition",
    "Artistic Text Recognition",
    "Handwriting Recognition",
    "Digit String Recognition",
    "Non-Semantic Text Recognition",
)
FORMULAS = "Handwritten Mathematical Expression Recognition"
_HALF_WIDTH = {0x3000: " ", **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}}


def parse(text: str, rule: str = "lmms", is_formula: bool = False) -> str:
    """Return the text in which references are looked for. Every text is an answer, so nothing fails.

    Formulas (the set HME100k) keep their case and lose spaces. Other texts are lower-case with line breaks as spaces;
    lmms also makes full-width characters half-width.
    """
    lower = text.lower().strip().replace("\n", " ")
    read = {"lmms": lower.translate(_HALF_WIDTH), "vlmevalkit": lower}
    plain = choose(read, rule)
    return text.strip().replace("\n", " ").replace(" ", "") if is_formula else plain


def judge(item: Item, rule: str = "lmms") -> Verdict:
    """Score one answer: 1 if it contains any reference. NOTE: "17" contains "7", and all contain an empty reference."""
    is_formula = item["category"] == FORMULAS
    parsed = parse(str(item["prediction"]), rule, is_formula)
    return Verdict(parsed, float(any(parse(str(one), rule, is_formula) in parsed for one in item["answers"])))


def score(items: Sequence[Item], rule: str = "lmms") -> Scores:
    """Return the number of right answers: in all ("score"), of each category, and of the six that recognize text."""
    counts = {
        name: Figure(sum(judge(item, rule).credit for item in members), len(members))
        for name, members in grouped(items, "category").items()
    }
    recognition = [counts[name] for name in RECOGNITION if name in counts]
    figures = {"score": _sum(counts.values()), "Text Recognition": _sum(recognition), **counts}
    return Scores("score", figures, len(items))


def _sum(figures: Sequence[Figure]) -> Figure:
    return Figure(sum(figure.value for figure in figures), sum(figure.count for figure in figures))
