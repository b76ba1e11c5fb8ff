"""Find the reasons why training would stop at its data, for `paddlemix inspect-data`."""

from __future__ import annotations

from pathlib import Path

from ..checkpoints.processor import LlavaProcessor
from ..data.bad_rows import BadRowPolicy, refuse
from ..data.entry_files import refuse_mistakes
from ..data.row_note import RowNote, in_words
from ..data.statistics import DataFacts
from ..data.trial_rows import check_images
from ..train.settings import DataSettings
from ..train.split import data_mistakes, measure_of, open_split


def mistakes_of_run(
    settings: DataSettings, shown: str, *, processor: LlavaProcessor, config_folder: Path | None
) -> list[str]:
    """Return the errors with which training would stop at its files, and at the rows of the splits that are not shown.

    shown: the split whose rows are measured. Raises ValueError with all mistakes if its rows cannot be read.
    """
    options = {"processor": processor, "config_folder": config_folder}
    mistakes = data_mistakes(settings, settings.splits, settings.evaluation_strategy, **options)
    hidden = {mistake.split for mistake in mistakes if mistake.hides_rows}
    if shown in hidden:
        refuse_mistakes(mistakes)
    found = [f"training would stop: {mistake.text}" for mistake in mistakes]
    for split in settings.splits:
        if split == shown or split in hidden:
            continue
        try:
            opened = open_split(settings, split, seed=settings.seed, policy=settings.policy, **options)
            measure = measure_of(processor, settings.max_length, is_thorough=False)
            check_images(opened.rows, measure, settings.policy, split, len(opened.left_out))
        except ValueError as error:
            found.append(f"training would stop: {error}")
    return found


def problems_of(
    data: DataFacts, bad: list[RowNote], num_left_out: int, policy: BadRowPolicy, num_rows: int
) -> list[str]:
    """Return the errors with which training would stop, and the files of which no token is trained."""
    problems = [
        f"{file.file}: 0% of its tokens are trained: none of its rows can be used ({in_words(file.skipped)})"
        for file in data.files
        if not file.num_trained
    ]
    refused = bad[: 0 if policy.is_structure_skipped else num_left_out]
    refused += bad[num_left_out:] if not policy.is_content_skipped else []
    for check in (lambda: refuse(refused), lambda: policy.check(bad, num_rows)):
        try:
            check()
        except ValueError as error:
            problems.append(f"training would stop: {error}")
            break
    return problems
