"""Make token caches of training configurations, as `paddlemix prepare cache` does."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import tiny_folder

from paddlemix.cli import Parser
from paddlemix.commands import prepare_cache
from paddlemix.data.bad_rows import BadRowPolicy
from paddlemix.data.encoding import Encoding
from paddlemix.data.measure import Measure
from paddlemix.data.mixture import parse_entries, scan_mixture
from paddlemix.data.token_cache.build import Work, build
from paddlemix.data.token_cache.encoder import RowEncoder
from paddlemix.data.token_cache.plan_rows import plan_cache


def prepare(folder: Path, dataset, output: Path, *words: str, mode: str = "pad", **values) -> int:
    """Run `paddlemix prepare cache` on a configuration with a tiny model; return the exit code."""
    config = folder / "cache-config.json"
    config.write_text(json.dumps({"model_name_or_path": str(tiny_folder.folder(mode)), "dataset": dataset, **values}))
    parser = Parser(prog="paddlemix prepare cache")
    prepare_cache.add_arguments(parser)
    return prepare_cache.run(parser.parse([str(config), "--output", str(output), *words]))


def make(
    output: Path,
    dataset,
    encoding: Encoding,
    *,
    split: str = "train",
    has_images: bool = False,
    shuffle: int | None = None,
    part_rows: int = 8,
    policy: BadRowPolicy | None = None,
    work: Work | None = None,
    seed: int = 42,
):
    """Make a cache with parts of a few rows; return its manifest."""
    rows, left_out = scan_mixture(dataset, split, seed=seed)
    plan, data = plan_cache(
        rows,
        left_out,
        parse_entries(dataset, split),
        encoding,
        split=split,
        seed=seed,
        has_images=has_images,
        shuffle=shuffle,
        part_rows=part_rows,
    )
    measure = Measure(encoding.tokenizer, encoding.template, encoding.spec, encoding.max_length, is_thorough=False)
    encoder = RowEncoder(measure, has_images)
    return build(output, plan, data, encoder, policy or BadRowPolicy("skip", 0.9), work or Work())


def digests(folder: Path) -> dict[str, str]:
    """Return a hash of each file of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
