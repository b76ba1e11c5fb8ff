"""LLaVA's training files and ShareGPT4V's, which have its form: rows are checked, and their images looked up.

Raw files: JSON lists of {"id", "image"?, "conversations": [{"from", "value"}, ...]}; without an image also "model".
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from ..converter import OUTPUT_DIR, Argument, Converter
from ..image_tree import ImageTree, image_folder, looked_up
from ..job import Job
from ..llava_rows import LlavaRows
from ..paths import output_folder
from ..training_rows import row_paths, rows_of

INSTRUCT_FOLDERS = ("coco/train2017", "gqa/images", "ocr_vqa/images", "textvqa/train_images", "vg/VG_100K")
INSTRUCT_FOLDERS += ("vg/VG_100K_2",)
SHARE_FOLDERS = (*INSTRUCT_FOLDERS, "llava/llava_pretrain/images", "sam/images", "share_textvqa/images")
SHARE_FOLDERS += ("web-celebrity/images", "web-landmark/images", "wikiart/images")

ARGUMENTS = (
    Argument("--input_file", "the JSON file, or several", options={"nargs": "+", "metavar": "FILE"}),
    Argument(
        "--image_folder",
        "folder with the images: rows whose image is not there are dropped and counted by folder; one with another "
        "ending or other capitals is taken (default: images are not looked up)",
        False,
        {"metavar": "DIR"},
    ),
    Argument("--image_prefix", "folder to put before the paths of images", False, {"metavar": "DIR", "default": ""}),
    OUTPUT_DIR,
)


def jobs(folders: tuple[str, ...], bare_folder: str, arguments: argparse.Namespace) -> list[Job]:
    """Return a job for each file. Raises ValueError if the image folder has none of the set's folders."""
    paths, tree, settings = row_paths(arguments.input_file), None, {"prefix": arguments.image_prefix}
    if arguments.image_folder:
        tree = ImageTree(image_folder(arguments.image_folder))
        if folders and not any(Path(tree.root, one).is_dir() for one in folders):
            raise ValueError(f"{tree.root} has none of the folders of images: expected {', '.join(folders)}")
        settings |= looked_up(tree)
    made = []
    for path in paths:
        output = output_folder(path.parent, arguments.output_dir) / f"{path.stem}_llava.jsonl"
        rows = LlavaRows(folders or ("",), bare_folder, tree, arguments.image_prefix)
        made.append(Job(output, (path,), partial(rows_of, [path]), rows.convert, settings))
    return made


def _converter(name: str, text: str, files: str, example: str, folders: tuple[str, ...], bare: str = "") -> Converter:
    return Converter(name, text, files, f"{name} {example}", ARGUMENTS, partial(jobs, folders, bare))


LLAVA_PRETRAIN = _converter(
    "llava_pretrain",
    "LLaVA-Pretrain: 558K captions for the first stage",
    "blip_laion_cc_sbu_558k.json",
    "--input_file LLaVA-Pretrain/blip_laion_cc_sbu_558k.json --image_folder LLaVA-Pretrain/images",
    (),
)
LLAVA_INSTRUCT = _converter(
    "llava_instruct",
    "LLaVA-Instruct: the 665K mix of LLaVA 1.5, the 150K of version 1, and its parts",
    f"llava_v1_5_mix665k.json, with images in {', '.join(INSTRUCT_FOLDERS)}; llava_instruct_150k.json, llava_instruct_"
    "80k.json, conversation_58k.json, detail_23k.json, complex_reasoning_77k.json, with images in coco/train2017",
    "--input_file llava_v1_5_mix665k.json --image_folder playground/data",
    INSTRUCT_FOLDERS,
    "coco/train2017",
)
SHAREGPT4V = _converter(
    "sharegpt4v",
    "ShareGPT4V: captions and instructions with longer answers",
    "share-captioner_coco_lcs_sam_1246k_1107.json, sharegpt4v_instruct_gpt4-vision_cap100k.json, "
    "sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.json, with images in " + ", ".join(SHARE_FOLDERS),
    "--input_file sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.json --image_folder data",
    SHARE_FOLDERS,
)
