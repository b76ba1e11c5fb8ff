"""Conversion from any layout to any other, one tensor in memory at a time. Needs no paddle.

The result grows in a hidden folder. It takes its place when it is complete and, if requested, compared with the source.
An unfinished result of an earlier run is deleted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..conversation.tokenizer import Tokenizer
from ..tensor_files.stored import CheckpointError, StoredTensor
from .layouts import TARGETS
from .layouts.layout import Layout, Vocabulary
from .layouts.output_part import Part
from .output_folder import OutputFolder
from .report import Report, flat, trace
from .source import Source, open_source
from .write import bytes_of, write_folder

Check = Callable[[Source, Source], list[str]]


def convert(
    source_path: str | Path,
    destination: str | Path,
    to: str,
    *,
    base: str | Path | None = None,
    dtype: str | None = None,
    max_shard_size: int | str = "5GB",
    checks: Sequence[Check] = (),
    has_progress: bool = False,
    is_overwriting: bool = False,
) -> Report:
    """Write a checkpoint in another layout and return a report.

    base: see `open_source`. dtype: None keeps each tensor's; a merged adapter gets the base's. checks: called with
    the source and the unfinished result; each raises CheckpointError or returns notes. is_overwriting: see
    `OutputFolder`. Raises CheckpointError, with the destination as it was, if anything does not fit or cannot be
    written.
    """
    start = time.monotonic()
    if to not in TARGETS:
        raise CheckpointError(f"layout {to!r} is not known: expected one of {', '.join(TARGETS)}")
    target = TARGETS[to]
    source = _open_for(target, source_path, base, dtype)
    output = OutputFolder(Path(destination), "convert", is_overwriting, layout=to).checked(source.folders)
    has_added_rows = target.loads_in_transformers
    vocabulary = Vocabulary(source.tokenizer, source.num_original_rows) if has_added_rows else Vocabulary()
    parts = _parts(target, source, vocabulary)
    report = Report(str(source_path), str(output.folder), source.name, to, dropped=source.dropped)
    report.removed_rows = source.describe_removed_rows()
    report.mapped = trace(source.tensors, _all_tensors(parts))
    report.notes += [
        *source.notices,
        *_merged_dtype(report, source, dtype),
        *(note for part in parts for note in part.notes),
    ]
    report.num_bytes = bytes_of(parts)

    def finish(folder: Path) -> None:
        if source.tokenizer is not None:
            target.write_tokenizer(source.tokenizer, source.config, folder)
        result = _open_result(folder, source)
        report.notes += _differences(source, result)
        report.remarks = target.remarks(source.tokenizer)
        for check in checks:
            report.notes += check(source, result)

    title = "convert" if has_progress else None
    report.files = write_folder(output, parts, max_shard_size=max_shard_size, finish=finish, title=title)
    report.seconds = time.monotonic() - start
    return report


def _merged_dtype(report: Report, source: Source, wanted: str | None) -> list[str]:
    """Return in which dtype an adapter was merged into its base, and what that loses. wanted: by the user."""
    if not any("merged" in one.steps for one in report.mapped):
        return []
    dtype, whose = source.config.dtype, "" if wanted else ", the base's dtype"
    lost = "" if dtype == "float32" else " (--dtype float32 loses no digits)"
    return [f"merged in {dtype}{whose}{lost}"]


def _parts(target: Layout, source: Source, vocabulary: Vocabulary) -> list[Part]:
    """Return what a layout writes. Raises CheckpointError that names the layouts that can hold the model."""
    try:
        return target.parts(source.config, source.tensors, vocabulary)
    except CheckpointError as error:
        commands = convert_commands(source)
        if not commands:
            raise
        raise CheckpointError(f"{error}. Convert it to a layout that can: {commands}") from error


def convert_commands(source: Source) -> str:
    """Return in words how to convert a model to the layouts that can hold it, "" if there is none."""
    source, found = source.without_added_rows(), []
    for name, target in TARGETS.items():
        with contextlib.suppress(CheckpointError):
            target.parts(source.config, source.tensors, Vocabulary())
            found.append(name)
    others = f" (or {', '.join(found[1:])})" if found[1:] else ""
    return f"`paddlemix convert {shlex.quote(str(source.path))} OUT --to {found[0]}`{others}" if found else ""


def _open_for(target: Layout, path: str | Path, base: str | Path | None, dtype: str | None) -> Source:
    """Open a checkpoint to be written in a layout: with rows for added tokens only if that layout has them too.

    An adapter is merged as by `merge`: without a dtype, all is written in the base's.
    """
    source = open_source(path, base)
    is_kept = target.loads_in_transformers and source.tokenizer_files is not None
    source = source if is_kept else source.without_added_rows()
    if dtype is None and source.layout.kind == "adapter":
        dtype = source.config.dtype
    merge_dtype = "float32" if source.rounding else dtype  # so that a base of codes is not rounded a second time
    return dataclasses.replace(source, dtype=dtype, merge_dtype=merge_dtype)


def _open_result(folder: Path, source: Source) -> Source:
    """Open a folder written from a source, if possible with as many rows of the vocabulary as the source."""
    result = open_source(folder)
    is_same = result.config.language.vocab_size == source.config.language.vocab_size
    return result if is_same else result.without_added_rows()


def _all_tensors(parts: list[Part]) -> dict[str, StoredTensor]:
    return {
        f"{part.folder}/{name}" if part.folder else name: tensor
        for part in parts
        for name, tensor in part.tensors.items()
    }


def _differences(source: Source, result: Source) -> list[str]:
    """Return a sentence for each difference between what was written and what is read back, except for tensors."""
    after, notes = flat(result.config), []
    for name, old in flat(source.config).items():
        if old != after[name]:
            notes.append(f"layout {result.name} does not keep {name}: {old!r} is read back as {after[name]!r}")
    if source.tokenizer is None:
        return [*notes, "the source has no tokenizer, so the result has none"]
    if not _is_same_tokenizer(source, result):
        notes.append(f"in layout {result.name} the tokenizer splits text differently, after special tokens for example")
    return notes


def _is_same_tokenizer(source: Source, result: Source) -> bool:
    one, other = source.tokenizer_files, result.tokenizer_files
    if one is None or other is None:
        return one is other
    is_copy = (one.vocabulary, one.contents) == (other.vocabulary, other.contents)
    return is_copy or _sample(source.tokenizer) == _sample(result.tokenizer)


def _sample(tokenizer: Tokenizer) -> list:
    """Return facts and ids that differ between tokenizers that read a conversation differently."""
    text = "Hello, it's 3 cats.\n<image> Ça va?"
    end = tokenizer.eos_id
    ids = [tokenizer.encode(text, is_start=is_start) for is_start in (True, False)]
    return [*ids, end, tokenizer.bos_id, tokenizer.add_bos, tokenizer.vocab_size, tokenizer.has_prefix_after(end)]
