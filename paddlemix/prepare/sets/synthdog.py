"""SynthDog-EN: images of generated documents with their text.

Raw files: {train,validation}-NNNNN-of-NNNNN-HASH.parquet with the columns image and ground_truth, a JSON text
{"gt_parse": {"text_sequence": TEXT}}.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from ..converter import COMPAT_IDS, Argument, Converter
from ..job import Job
from ..paths import RawPath
from ..readers import parquet_rows
from ..row import Placed, Problem, RowError, object_of, shown, text_of
from .parquet_images import Figure, arguments_for, bytes_of, image_jobs, selected

JPEG_START = b"\xff\xd8\xff"
_NAME = re.compile(r"(\w+)-(\d{5})-of-\d{5}(?:-\w+)?\.parquet")
# LLaVA's instructions to describe an image briefly (Visual Instruction Tuning, 2023, appendix).
PROMPTS = (
    "Describe the image concisely.",
    "Provide a brief description of the given image.",
    "Offer a succinct explanation of the picture presented.",
    "Summarize the visual content of the image.",
    "Give a short and clear explanation of the subsequent image.",
    "Share a concise interpretation of the image provided.",
    "Present a compact description of the photo's key features.",
    "Relay a brief, clear account of the picture shown.",
    "Render a clear and concise summary of the photo.",
    "Write a terse but informative summary of the picture.",
    "Create a compact narrative representing the image presented.",
)


def documents(has_short_ids: bool, seed: int, keeps_jpeg: bool, path: RawPath) -> Iterator[Placed]:
    """Yield the documents of a file."""
    split, shard = _NAME.fullmatch(path.name).groups()
    for number, row in enumerate(parquet_rows(path, ["image", "ground_truth"])):
        if isinstance(row.value, Problem):
            yield row
            continue
        name = f"{number:07d}"
        identity = name if has_short_ids else f"{split}_{shard}_{name}"
        content = bytes_of(row.value["image"])
        is_jpeg = keeps_jpeg and isinstance(content, bytes) and content.startswith(JPEG_START)
        file = f"{split}/{shard}/{name}.{'jpg' if is_jpeg else 'png'}"
        prompt = prompt_of(seed, f"{split}_{shard}_{name}")
        yield row._replace(value=document_or_problem(identity, file, prompt, row.value))


def document_or_problem(identity: str, file: str, prompt: str, value: Any) -> Figure | Problem:
    """Return a document, or why it is dropped."""
    try:
        row = object_of(value)
        return Figure(identity, file, bytes_of(row.get("image")), prompt, _text(row.get("ground_truth")))
    except RowError as error:
        return error.problem


def _text(truth: Any) -> str:
    """Return the text of a document. Raises RowError for anything else."""
    try:
        value = json.loads(truth)
    except (TypeError, ValueError, RecursionError):
        raise RowError("ground_truth is not JSON", f"ground_truth is {shown(truth)}, expected JSON") from None
    return text_of(object_of(object_of(value).get("gt_parse")), "text_sequence")


def prompt_of(seed: int, name: str) -> str:
    """Return the prompt of a row: chosen by the BLAKE2 hash of "SEED NAME", 8 bytes as a number, lowest first."""
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
    return PROMPTS[int.from_bytes(digest, "little") % len(PROMPTS)]


def shard_of(name: str) -> int | None:
    """Return the number of a shard."""
    found = _NAME.fullmatch(name)
    return int(found[2]) if found else None


def jobs(arguments: argparse.Namespace) -> list[Job]:
    """Return a job for each Parquet file in the range, of train and of validation."""
    paths = selected(arguments, shard_of, "SPLIT-NNNNN-of-NNNNN-HASH.parquet")
    settings = {name: vars(arguments)[name] for name in ("compat_ids", "seed", "keep_jpeg")}
    return image_jobs(arguments, paths, partial(documents, *settings.values()), settings)


CONVERTER = Converter(
    name="synthdog_en",
    description="SynthDog-EN: images of generated documents with their text",
    files="a folder of {train,validation}-NNNNN-of-NNNNN-HASH.parquet",
    example="synthdog_en --input_dir synthdog-en/data --output_jsonl_dir synthdog-en/llava_processed_jsons "
    "--output_parquet_dir synthdog-en/llava_processed_parquet --parquet_range 3 11 "
    "--output_image_dir synthdog-en/images --image_prefix synthdog-en/images",
    arguments=(
        *arguments_for("a number is that of a shard"),
        COMPAT_IDS,
        Argument("--seed", "chooses the prompts (default: 0)", is_required=False, options={"type": int, "default": 0}),
        Argument(
            "--keep-jpeg",
            "save JPEG content as .jpg, as it is, instead of as .png: many times faster and smaller",
            is_required=False,
            options={"action": "store_true"},
        ),
    ),
    jobs=jobs,
    has_images=True,
)
