"""`paddlemix prepare cache`: encode the data of a training configuration once, for any number of runs."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..terminal.hidden import quiet_libraries
from ..terminal.sizes import plural
from ..terminal.visible import visible
from .options import add_hub_options, resolve_models, take_settings
from .parser import SHAPES, add_examples

if TYPE_CHECKING:
    from ..checkpoints.processor import LlavaProcessor
    from ..train.settings import DataSettings
    from ..train.split import Split

FORMATS = ("arrow", "hdf5")
CONFIG = "paddlemix/examples/llava/tiny/example_lora.json"  # of the example
MAX_WORKERS = 256
RANK, NUM_RANKS = "PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM"  # set by paddle.distributed.launch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; CONFIG.json and --key value are the settings of the training commands."""
    take_settings(parser, f"{parser.prog} CONFIG.json --output DIR [--workers N] [--with-images] [--key value ...]")
    parser.epilog = (
        'Train from the result with "dataset": {"name": "token_cache", "data_files": "DIR"}. The command may be '
        "stopped at any time and repeated; it goes on with what is there. With --rank and --ranks, or under "
        "python -m paddle.distributed.launch, several machines with a common file system share the work."
    )
    parser.add_argument("config", metavar="CONFIG.json", help="training configuration; --key value overrides it")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the cache: new, or to be finished")
    parser.add_argument(
        "--workers", type=int, default=None, metavar="N", help="processes (default: one per core, at most 8)"
    )
    parser.add_argument("--with-images", action="store_true", help="store the images' files too, not only their names")
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="of the files (default: arrow)")
    parser.add_argument(
        "--shuffle",
        type=int,
        default=None,
        metavar="SEED",
        help='store the rows in a random order, for "order": "stored"',
    )
    parser.add_argument("--split", choices=("train", "eval"), default="train", help="(default: train)")
    parser.add_argument(
        "--stage",
        choices=("pretrain", "sft"),
        default="sft",
        help="stage whose chat template is used: pretrain uses plain (default: sft)",
    )
    parser.add_argument("--rank", type=int, default=None, metavar="R", help="number of this process (default: 0)")
    parser.add_argument(
        "--ranks", type=int, default=None, metavar="N", help="processes that share the work (default: 1)"
    )
    add_hub_options(parser)
    add_examples(parser, SHAPES, f"{parser.prog} {CONFIG} --output work_dirs/cache")


def run(arguments: argparse.Namespace) -> int:
    """Make the cache; raise ValueError for settings and data that training refuses."""
    with quiet_libraries("paddlemix prepare cache", "paddlemix.train.stages", "paddlemix.train.split"):
        return _prepare(arguments)


def _prepare(arguments: argparse.Namespace) -> int:
    from ..checkpoints.processor import LlavaProcessor
    from ..data.entry_files import find_mistakes, refuse_mistakes
    from ..data.trial_rows import check_images
    from ..train.config_file import config_folder, read_values
    from ..train.settings import DataSettings
    from ..train.split import measure_of, open_split
    from ..train.stages import check_start

    rank, num_ranks = _ranks(arguments)
    _check(arguments, num_ranks)
    words = [arguments.config, *arguments.settings]
    settings = DataSettings.read(read_values(words))
    if settings.model_name_or_path is None:
        raise ValueError("model_name_or_path is missing: name it in the configuration or as --model_name_or_path")
    check_start(settings.model_name_or_path, config_folder(words))
    processor = LlavaProcessor.from_pretrained(*resolve_models(arguments, settings.model_name_or_path))
    template = settings.conv_mode or settings.version or ("plain" if arguments.stage == "pretrain" else None)
    processor = processor.with_template(template) if template else processor
    files = {
        "template": processor.template,
        "config_folder": config_folder(words),
        "image_folder": settings.image_folder,
    }
    refuse_mistakes(find_mistakes(settings.dataset, (arguments.split,), **files))
    split = open_split(
        settings,
        arguments.split,
        processor=processor,
        config_folder=config_folder(words),
        seed=settings.seed,
        policy=settings.policy,
    )
    measure = measure_of(processor, settings.max_length, is_thorough=False)
    check_images(split.rows, measure, settings.policy, arguments.split, len(split.left_out))
    if arguments.format == "hdf5":
        _make_hdf5(arguments, settings, processor, split)
    else:
        _make_cache(arguments, settings, processor, split, rank, num_ranks)
    return 0


def _make_cache(
    arguments: argparse.Namespace,
    settings: DataSettings,
    processor: LlavaProcessor,
    split: Split,
    rank: int,
    num_ranks: int,
) -> None:
    from ..data.encoding import Encoding
    from ..data.measure import default_workers
    from ..data.mixture import parse_entries
    from ..data.token_cache.build import Work, build
    from ..data.token_cache.encoder import RowEncoder
    from ..data.token_cache.plan_rows import plan_cache
    from ..train.split import measure_of

    plan, rows = plan_cache(
        split.rows,
        split.left_out,
        parse_entries(settings.dataset, arguments.split),
        Encoding(processor.tokenizer, processor.template, processor.spec, settings.max_length),
        split=arguments.split,
        seed=settings.seed,
        has_images=arguments.with_images,
        shuffle=arguments.shuffle,
    )
    work = Work(
        arguments.workers or default_workers(), rank, num_ranks, progress=_Bar() if sys.stderr.isatty() else _silent
    )
    encoder = RowEncoder(measure_of(processor, settings.max_length, is_thorough=False), arguments.with_images)
    manifest = build(Path(arguments.output), plan, rows, encoder, settings.policy, work)
    if manifest is None:
        print(f"rank {rank} of {num_ranks}: its part is encoded", flush=True)
    else:
        print(visible(_summary(arguments.output, manifest.as_dict())), flush=True)


def _make_hdf5(
    arguments: argparse.Namespace,
    settings: DataSettings,
    processor: LlavaProcessor,
    split: Split,
) -> None:
    from ..data.hdf5.write import HdfEncoder, find_layout, write_hdf5
    from ..data.measure import default_workers
    from ..data.row_note import NOTES_FILE, in_words
    from ..train.split import measure_of

    measure = measure_of(processor, settings.max_length, is_thorough=False)
    encoder = HdfEncoder(measure, find_layout(split.rows, measure, processor.spec, processor.tokenizer))
    params = write_hdf5(
        Path(arguments.output),
        split.rows,
        encoder,
        processor.tokenizer,
        settings.policy,
        num_workers=arguments.workers or default_workers(),
        split=arguments.split,
        left_out=split.left_out,
        progress=_Bar() if sys.stderr.isatty() else _silent,
    )
    counts = params["post-process"]
    skipped = in_words(counts["skipped"]) or "none"
    where = f"; listed in {Path(arguments.output, NOTES_FILE)}" if counts["skipped"] or split.left_out else ""
    rows = plural(counts["n_examples"], "row")
    print(visible(f"{arguments.output}: {rows} in HDF5; skipped: {skipped}{where}"), flush=True)


def _silent(what: str, done: int, total: int) -> None:
    """Show no progress: standard error is not a terminal."""


class _Bar:
    """A progress bar on a terminal, one for each of the stages."""

    def __init__(self):
        self.bar = None

    def __call__(self, what: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if self.bar is None or self.bar.desc != what:
            self.close()
            self.bar = tqdm(desc=what, total=total, unit="row" if what == "encoding" else "shard")
        self.bar.update(done - self.bar.n)
        if done >= total:
            self.close()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None


def _summary(output: str, manifest: dict[str, Any]) -> str:
    from ..data.row_note import NOTES_FILE, in_words

    totals, left_out = manifest["totals"], manifest["left_out"]
    num_bytes = sum(shard["bytes"] for shard in manifest["shards"])
    skipped = in_words(totals["skipped"]) or "none"
    where = f"; listed in {Path(output, NOTES_FILE)}" if totals["skipped"] or left_out else ""
    rows, files = plural(manifest["num_rows"], "row"), plural(len(manifest["shards"]), "file")
    tokens, images = plural(totals["num_tokens"], "token"), plural(totals["num_images"], "image")
    return (
        f"{output}: {rows} in {files} of {num_bytes:,} bytes, {tokens}, {images}; "
        f"checksum {manifest['checksum_after']}\n"
        f"skipped: {skipped}; cut: {totals['num_cut']:,}; wrong in their files: {len(left_out):,}{where}"
    )


def _ranks(arguments: argparse.Namespace) -> tuple[int, int]:
    """Return the number of this process and of all: from the options, or from paddle.distributed.launch."""
    if (arguments.rank is None) != (arguments.ranks is None):
        raise ValueError("--rank and --ranks belong together: name both, or neither")
    if arguments.rank is not None:
        rank, num_ranks = arguments.rank, arguments.ranks
    else:
        rank, num_ranks = _environment(RANK, 0), _environment(NUM_RANKS, 1)
    if not 0 <= rank < num_ranks:
        raise ValueError(f"--rank is {rank} of {num_ranks}: expected 0 to {num_ranks - 1}")
    return rank, num_ranks


def _environment(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{name} is {text!r}: expected a number, as paddle.distributed.launch sets it")
    return int(text)


def _check(arguments: argparse.Namespace, num_ranks: int) -> None:
    if arguments.workers is not None and not 1 <= arguments.workers <= MAX_WORKERS:
        raise ValueError(f"--workers is {arguments.workers}: expected 1 to {MAX_WORKERS}")
    if arguments.shuffle is not None and not 0 <= arguments.shuffle < 1 << 48:
        raise ValueError(f"--shuffle is {arguments.shuffle}: expected a seed from 0 to {(1 << 48) - 1}")
    if arguments.format == "hdf5" and (arguments.with_images or num_ranks > 1):
        raise ValueError("--format hdf5 stores names of images, and is written by one process: leave the other out")
    if arguments.format == "hdf5" and arguments.shuffle is not None:
        raise ValueError("--shuffle is for the token cache; a run on HDF5 files draws their rows in a random order")
