"""An order of rows in which each batch has rows of similar length, so that little of it is padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NUM_GROUPS = 50  # groups whose rows are sorted together: more groups mean less padding and less randomness


def grouped_order(
    lengths: Sequence[int],
    group_size: int,
    generator: np.random.Generator,
    has_image: Sequence[bool] | None = None,
) -> np.ndarray:
    """Return the row numbers, int64 [rows], in consecutive groups of group_size rows of similar length.

    Rows are shuffled, then sorted by length within chunks of NUM_GROUPS groups, and the groups are shuffled. The group
    with the longest row comes first, so that running out of memory shows at once. has_image: make groups of rows with
    images and groups of rows without (LLaVA's group_by_modality_length). Rows that do not fill a group come last.
    """
    lengths = np.asarray(lengths)
    everything = np.arange(len(lengths))
    is_first = np.ones(len(lengths), dtype=bool) if has_image is None else np.asarray(has_image, dtype=bool)
    groups, rest = [], []
    for rows in (everything[is_first], everything[~is_first]):
        rows = _sorted_in_chunks(generator.permutation(rows), lengths, group_size * NUM_GROUPS)
        num_grouped = len(rows) // group_size * group_size
        groups.append(rows[:num_grouped].reshape([-1, group_size]))
        rest.append(rows[num_grouped:])
    groups = generator.permutation(np.concatenate(groups))
    if len(groups):
        longest = int(lengths[groups].max(axis=1).argmax())
        groups[[0, longest]] = groups[[longest, 0]]
    return np.concatenate([groups.reshape(-1), *rest])


def _sorted_in_chunks(rows: np.ndarray, lengths: np.ndarray, chunk: int) -> np.ndarray:
    """Return the rows with each chunk sorted from the longest to the shortest."""
    chunks = [rows[start : start + chunk] for start in range(0, len(rows), chunk)]
    return np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in chunks]) if chunks else rows
