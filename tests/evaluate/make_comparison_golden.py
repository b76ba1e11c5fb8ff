"""Make tests/assets/comparison.json: intervals and p-values of paired answers, computed by scipy.

`python tests/evaluate/make_comparison_golden.py`, with scipy installed. The clustered standard error is summed over all
pairs of a group, as the formula in section 2.2 of arXiv:2411.00640 is written, times G / (G - 1) as in statsmodels.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy import stats

OUTPUT = Path(__file__).resolve().parents[1] / "assets" / "comparison.json"
CREDITS = {"binary": (0.0, 1.0), "vqa": (0.0, 0.3, 0.6, 0.9, 1.0)}
SIZES = ((40, 40), (40, 9), (300, 120), (5, 5))  # questions, groups
SIGN_TESTS = ((0, 0), (1, 0), (5, 5), (3, 10), (10, 3), (0, 6), (40, 61), (1200, 1318))


def clustered_error(differences: np.ndarray, groups: np.ndarray) -> float:
    centered = differences - differences.mean()
    total = 0.0
    for one in range(len(centered)):
        for other in range(len(centered)):
            if groups[one] == groups[other]:
                total += centered[one] * centered[other]
    count = len(set(groups.tolist()))
    return float(np.sqrt(total * count / (count - 1)) / len(centered))


def paired_case(rng: np.random.Generator, kind: str, size: int, num_groups: int) -> dict:
    pairs = rng.choice(CREDITS[kind], size=(size, 2))
    # A question of its own for each group first, so that none is empty.
    groups = np.concatenate([np.arange(num_groups), rng.integers(0, num_groups, size - num_groups)])
    differences = pairs[:, 1] - pairs[:, 0]
    is_plain = num_groups == size
    error = float(stats.sem(differences)) if is_plain else clustered_error(differences, groups)
    low, high = stats.norm.interval(0.95, loc=differences.mean(), scale=error)
    return {
        "kind": kind,
        "pairs": pairs.tolist(),
        "groups": [f"g{group}" for group in groups],
        "difference": float(differences.mean()),
        "interval": [float(low), float(high)],
    }


def main() -> None:
    rng = np.random.default_rng(7)
    paired = [paired_case(rng, kind, *sizes) for kind in CREDITS for sizes in SIZES]
    signs = [
        {
            "wins": wins,
            "losses": losses,
            "p": float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0,
        }
        for wins, losses in SIGN_TESTS
    ]
    OUTPUT.write_text(json.dumps({"paired": paired, "mcnemar": signs}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
