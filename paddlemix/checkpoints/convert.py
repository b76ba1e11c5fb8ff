"""From any layout to any other, one tensor in memory at a time. Needs no paddle.

The result grows in a hidden folder and takes its place when it is whole and, if asked for, compared with the source.
What an earlier run left unfinished there is thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from tqdm import tqdm

from ..conversation.tokenizer import Tokenizer
from ..tensor_files.shards import parse_size
from ..tensor_files.stored import CheckpointError, StoredTensor
from .checkpoint import Checkpoint, open_checkpoint, open_written
from .layouts import LAYOUTS, hf
from .layouts.part import Part
from .new_folder import check_space
from .output_folder import Place
from .part_files import write_json_files, write_weights
from .report import Report, trace
from .source import folders_of

Check = Callable[[Checkpoint, Path], list[str]]


def convert(
    source_path,
    destination,
    to: str,
    *,
    base=None,
    dtype: str | None = None,
    max_shard_size: int | str = "5GB",
    checks: Sequence[Check] = (),
    has_progress: bool = False,
    is_overwriting: bool = False,
) -> Report:
    """Write a checkpoint in another layout and return what was done.

    base: the model that side files were trained on, None for the one that they name. dtype: None keeps each tensor's;
    what is merged then has its base's. checks: called with (source, unfinished result) before the result takes its
    name; each raises CheckpointError or returns notes. is_overwriting: as for `Place`. Raises CheckpointError, with the
    destination as it was, for whatever does not fit or cannot be written.
    """
    start = time.monotonic()
    if to not in LAYOUTS:
        raise CheckpointError(f"layout {to!r} is not known: expected one of {', '.join(LAYOUTS)}")
    target, max_bytes = LAYOUTS[to], parse_size(max_shard_size)
    source = open_checkpoint(Path(source_path), target, base=base, merge_dtype=dtype).as_dtype(dtype)
    place = Place(Path(destination), "convert", is_overwriting).checked(folders_of(source.path, source.layout))
    parts = _parts(source, target)
    names = str(source_path), str(place.folder), source.layout.NAME, to
    report = Report(*names, dropped=source.dropped, cut=source.cut)
    report.notes += [*source.notices, *(note for part in parts for note in part.notes)]
    report.mapped = trace(source.tensors, _all_tensors(parts))
    report.num_bytes = sum(tensor.num_bytes for part in parts for tensor in part.tensors.values())
    check_space(place.folder.parent, report.num_bytes)
    with place.filled() as folder:
        with tqdm(total=report.num_bytes, unit="B", unit_scale=True, disable=not has_progress, desc="convert") as bar:
            for part in parts:
                report.files += write_weights(folder, part, max_bytes, bar)
        for part in reversed(parts):  # the folder itself, which comes first, gets its config.json last
            write_json_files(folder, part)
        if source.tokenizer is not None:
            target.write_tokenizer(source.tokenizer, source.config, folder)
        report.notes += _differences(source, open_written(folder, source))
        report.remarks = hf.tokenizer_remarks(source.tokenizer) if target is hf else []
        for check in checks:
            report.notes += check(source, folder)
    report.seconds = time.monotonic() - start
    return report


def _parts(source: Checkpoint, target: ModuleType) -> list[Part]:
    if target is hf:  # whose rows of `<image>` and `<pad>` are the tokenizer's, where it has them
        return hf.parts(source.config, source.tensors, source.tokenizer, source.num_own_rows)
    return target.parts(source.config, source.tensors)


def _all_tensors(parts: list[Part]) -> dict[str, StoredTensor]:
    return {
        f"{part.folder}/{name}" if part.folder else name: tensor
        for part in parts
        for name, tensor in part.tensors.items()
    }


def _differences(source: Checkpoint, result: Checkpoint) -> list[str]:
    """Return a sentence for everything but tensors that reads back otherwise than it was."""
    before, after = source.config.to_dict(), result.config.to_dict()
    notes = []
    for key, value in before.items():
        pairs = {f"{key}.{name}": (value[name], after[key][name]) for name in value} if isinstance(value, dict) else {}
        for name, (old, new) in (pairs or {key: (value, after[key])}).items():
            if old != new:
                notes.append(f"layout {result.layout.NAME} does not keep {name}: {old!r} reads back as {new!r}")
    if source.tokenizer is None:
        return [*notes, "the source has no tokenizer, so the result has none"]
    if result.tokenizer is None or _sample(source.tokenizer) != _sample(result.tokenizer):
        notes.append(f"in layout {result.layout.NAME} the tokenizer splits text otherwise (after special tokens, say)")
    return notes


def _sample(tokenizer: Tokenizer) -> list:
    """Return what tells tokenizers apart in how they read a conversation."""
    text = "Hello, it's 3 cats.\n<image> Ça va?"
    end = tokenizer.eos_id
    ids = [tokenizer.encode(text, is_start=is_start) for is_start in (True, False)]
    return [*ids, end, tokenizer.bos_id, tokenizer.add_bos, tokenizer.vocab_size, tokenizer.has_prefix_after(end)]
