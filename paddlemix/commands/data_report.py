"""The report of `paddlemix inspect-data` about a split: its numbers, as text, JSON and HTML."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..checkpoints.processor import LlavaProcessor
from ..data.measure import RowFacts, measure_rows
from ..data.packing import fill_rate, pack_rows
from ..data.row import Row
from ..data.row_note import RowNote, in_words
from ..data.sample import Sample
from ..data.statistics import DataFacts, distinct_rows, summarize
from ..terminal.columns import beside, padded, width_of
from ..terminal.visible import visible_line
from ..train.eval_tasks import EvalTask, load_tasks
from ..train.settings import DataSettings
from ..train.split import measure_of, open_split
from . import report_html
from .data_problems import mistakes_of_run, problems_of

LABEL_WIDTH = 18
MAX_NAMED = 10  # bad rows that are listed


@dataclass(frozen=True)
class Report:
    """A split of a configuration.

    rows: rows that can be trained on, each once. bad: notes of all other rows. num_in_mixture: rows of an epoch.
    packed: number of rows after packing and their fill rate, or None. problems: reasons why training would stop. tasks:
    questions that are answered at each evaluation, of the whole run.
    """

    settings: DataSettings
    processor: LlavaProcessor
    split: str
    data: DataFacts
    rows: tuple[Row, ...]
    bad: tuple[RowNote, ...]
    num_in_mixture: int
    packed: tuple[int, float] | None
    steps: tuple[int, int]
    num_processes: int
    problems: tuple[str, ...]
    tasks: tuple[EvalTask, ...] = ()


def inspect_data(
    settings: DataSettings,
    processor: LlavaProcessor,
    *,
    split: str,
    config_folder: Path | None,
    num_processes: int,
    num_workers: int,
    has_progress: bool,
) -> Report:
    """Read and measure a split. Raises ValueError for settings and files that training refuses."""
    tasks = load_tasks(settings.eval_tasks, config_folder)
    mistakes = mistakes_of_run(settings, split, processor=processor, config_folder=config_folder)
    opened = open_split(
        settings,
        split,
        processor=processor,
        config_folder=config_folder,
        seed=settings.seed,
    )
    mixture, left_out = opened.rows, opened.left_out
    rows = distinct_rows(mixture)
    measured = measure_rows(rows, measure_of(processor, settings.max_length), num_workers=num_workers)
    facts = list(tqdm(measured, total=len(rows), disable=not has_progress, desc="reading", unit="row"))
    bad = [*left_out, *_skipped(rows, facts, split)]
    data = summarize(rows, facts, left_out, num_in_mixture=len(mixture), max_length=settings.max_length)
    packed = _packing(_kept(mixture, rows, facts), settings) if settings.is_packed else None
    return Report(
        settings,
        processor,
        split,
        data,
        tuple(row for row, fact in zip(rows, facts, strict=True) if fact.kind is None),
        tuple(bad),
        len(mixture),
        packed,
        settings.steps(packed[0] if packed else len(mixture), num_processes),
        num_processes,
        (*mistakes, *problems_of(data, bad, len(left_out), settings.policy, opened.num_rows)),
        tasks,
    )


def _skipped(rows: list[Row], facts: list[RowFacts], split: str) -> list[RowNote]:
    pairs = zip(rows, facts, strict=True)
    return [RowNote.of(row, split, fact.kind, fact.reason) for row, fact in pairs if fact.kind is not None]


def _kept(mixture: list[Row], rows: list[Row], facts: list[RowFacts]) -> list[int]:
    """Return the lengths of the samples of an epoch, in which a mixture may repeat rows."""
    lengths = {(row.file, row.number): fact.num_kept for row, fact in zip(rows, facts, strict=True)}
    return [lengths[row.file, row.number] for row in mixture]


def _packing(lengths: list[int], settings: DataSettings) -> tuple[int, float]:
    """Return the number of rows into which training packs the samples, and their fill rate (0 to 1)."""
    packs = pack_rows(lengths, settings.max_length, settings.seed)
    return len(packs), fill_rate(packs, lengths, settings.max_length)


def facts_of(report: Report) -> list[tuple[str, str]]:
    """Return the numbers of the report as labels and texts."""
    data, settings = report.data, report.settings
    num_rows, num_used = data.total("num_rows"), data.total("num_used")
    formats = ", ".join(f"{count:,} {name}" for name, count in data.totals("formats").items())
    num_tokens, num_trained = data.total("num_tokens"), data.total("num_trained")
    share = f" ({num_trained / num_tokens:.1%})" if num_tokens else ""
    rows = [
        ("model", f"{settings.model_name_or_path}, template {report.processor.template.name}"),
        ("rows", f"{num_rows:,}, of which {num_used:,} can be used; formats: {formats}"),
        ("skipped", in_words(data.totals("skipped")) or "none"),
        ("cut", f"{data.total('num_cut'):,} (turns dropped to fit max_length: {data.total('num_dropped_turns'):,})"),
        ("duplicates", f"{data.num_duplicates:,} (same conversation and images as an earlier row)"),
        *_image_rows(report),
        *_length_rows(report),
        ("tokens", f"{num_tokens:,} after cutting, {num_trained:,} of them trained{share}"),
        *_step_rows(report),
        *((f"task {task.name}", task.summary()) for task in report.tasks),
    ]
    if data.num_repeated > 0:
        text = f"{report.num_in_mixture:,} rows per epoch: weight and num_samples repeat {data.num_repeated:,}"
        rows.insert(2, ("mixture", text))
    return rows


def _image_rows(report: Report) -> list[tuple[str, str]]:
    images = report.data.images
    text = f"{images.num_found:,} found, {images.num_missing:,} missing, {images.num_unreadable:,} unreadable"
    if images.min_size is None:
        return [("images", text)]
    named = ((name, vars(images)[f"{name}_size"]) for name in ("min", "median", "max"))
    sizes = ", ".join(f"{name} {width}x{height}" for name, (width, height) in named)
    common = ", ".join(f"{width}x{height}: {count:,}" for width, height, count in images.common[:4])
    return [("images", text), ("image sizes", f"{sizes} (width x height, each on its own)"), ("most common", common)]


def _length_rows(report: Report) -> list[tuple[str, str]]:
    lengths = report.data.lengths
    if lengths is None:
        return []
    spread = (
        f"min {lengths.min:,}, median {lengths.median:,.0f}, 95% up to {lengths.p95:,.0f}, max {lengths.max:,} tokens"
    )
    too_long = f"{lengths.share_over:.1%} over max_length {report.settings.max_length:,}"
    return [("length", spread), ("too long", too_long)]


def _step_rows(report: Report) -> list[tuple[str, str]]:
    settings, (num_steps, num_all) = report.settings, report.steps
    rows = []
    if report.packed is not None:
        count, fill = report.packed
        text = f"{_counted(count, 'row')} of {settings.max_length:,} tokens, {fill:.1%} full (first fit, an estimate)"
        rows.append(("packed", text))
    if report.split != "train":
        return rows
    batch = " x ".join(
        [
            _counted(settings.per_device_train_batch_size, "row"),
            _counted(settings.gradient_accumulation_steps, "batch", "batches"),
            _counted(report.num_processes, "process", "processes"),
        ]
    )
    return [*rows, ("steps", f"about {num_steps:,} per epoch, {num_all:,} in all ({batch})")]


def _counted(number: int, one: str, several: str = "") -> str:
    """Return a number with its noun: "1 row", "2 rows"."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def file_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return the names of the columns, with a "#" in front for numbers, and a row for each file."""
    names = ["file", "#rows", "#used", "#cut", "#images", "#tokens", "#trained", "#share", "skipped"]
    rows = [
        [
            visible_line(file.file),
            *(f"{count:,}" for count in (file.num_rows, file.num_used, file.num_cut, file.num_images)),
            *(f"{count:,}" for count in (file.num_tokens, file.num_trained)),
            f"{file.trained_share:.1%}",
            in_words(file.skipped),
        ]
        for file in report.data.files
    ]
    return names, rows


def as_text(report: Report) -> str:
    """Return the report for a terminal."""
    facts = (beside(f"  {label:<{LABEL_WIDTH}}", text) for label, text in facts_of(report))
    lines = [f"{report.split}", *(line for lines in facts for line in lines)]
    names, rows = file_table(report)
    lines += ["", "files", *aligned(names, rows)]
    if report.bad:
        lines += ["", "bad rows", *(f"  {visible_line(note.where)}: {note.reason}" for note in report.bad[:MAX_NAMED])]
        lines += [f"  and {len(report.bad) - MAX_NAMED:,} more"] * (len(report.bad) > MAX_NAMED)
    lines += ["", "problems", *(f"  {problem}" for problem in report.problems)] if report.problems else []
    return "\n".join(lines)


def aligned(names: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a table, with numbers aligned to the right."""
    cells = [[name.lstrip("#") for name in names], *rows]
    widths = [max(width_of(line[column]) for line in cells) for column in range(len(names))]
    are_numbers = [name.startswith("#") for name in names]
    fields = (zip(line, widths, are_numbers, strict=True) for line in cells)
    return [("  " + "  ".join(padded(*field) for field in line)).rstrip() for line in fields]


def as_dict(report: Report) -> dict[str, Any]:
    """Return the numbers of the report as JSON."""
    return {
        "model": report.settings.model_name_or_path,
        "template": report.processor.template.name,
        "split": report.split,
        "max_length": report.settings.max_length,
        "num_rows": report.data.total("num_rows"),
        "num_used": report.data.total("num_used"),
        "num_in_mixture": report.num_in_mixture,
        "skipped": report.data.totals("skipped"),
        "num_tokens": report.data.total("num_tokens"),
        "num_trained": report.data.total("num_trained"),
        **dataclasses.asdict(report.data),
        "packed": report.packed and {"num_rows": report.packed[0], "fill": report.packed[1]},
        "steps_per_epoch": report.steps[0],
        "steps": report.steps[1],
        "eval_tasks": [task.as_dict() for task in report.tasks],
        "bad_rows": [note.as_dict() for note in report.bad],
        "problems": list(report.problems),
    }


def as_html(report: Report, num_samples: int) -> str:
    """Return the report as an HTML page with random samples, the same ones each time."""
    processor, bad = report.processor, report.bad
    chosen = np.random.default_rng(report.settings.seed).permutation(len(report.rows))[:num_samples]
    samples = (_sample(report, report.rows[index]) for index in sorted(chosen))
    names, rows = file_table(report)
    tables = [
        ("Files", names, rows),
        ("Bad rows", ["where", "id", "reason"], [[note.where, str(note.id or ""), note.reason] for note in bad[:100]]),
    ]
    return report_html.page(
        f"{report.split} data of {Path(report.settings.model_name_or_path).name}",
        facts_of(report),
        tables,
        report.problems,
        report.data.lengths,
        report.settings.max_length,
        samples,
        processor.spec,
        processor.tokenizer,
    )


def _sample(report: Report, row: Row) -> Sample:
    """Return a row as the model sees it."""
    sample = report.processor.encode_row(row, max_length=report.settings.max_length)
    return dataclasses.replace(sample, where=row.where)
