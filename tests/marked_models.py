"""Tiny LLaVAs with marks around an image: as LLaVA's first version left them, and composed."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import tiny_folder

from paddlemix.checkpoints.compose import Choices, compose

PAD, START, END = tiny_folder.VOCAB_SIZE, tiny_folder.VOCAB_SIZE + 2, tiny_folder.VOCAB_SIZE + 3
# As in the released folders of version 0, where `<im_patch>` stood for a part of an image in the older code.
ADDED = {"[PAD]": PAD, "<im_patch>": PAD + 1, "<im_start>": START, "<im_end>": END}
NUM_ROWS = tiny_folder.VOCAB_SIZE + len(ADDED)


def write_tokenizer(folder: Path, added: dict[str, int] = ADDED) -> None:
    """Write a tokenizer with added tokens as version 0 has them: in added_tokens.json alone, with no role."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(tiny_folder.tokenizer_folder() / "tokenizer.model", folder)
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, **roles}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").write_text(json.dumps(roles))
    (folder / "added_tokens.json").write_text(json.dumps(added))


@functools.cache
def composed() -> Path:
    """Return a folder of ours with marks, composed of a tiny LLaVA without any, once per process."""
    folder = tiny_folder.scratch() / "marked"
    plain = tiny_folder.folder("pad")
    choices = Choices(projector_type="mlp2x_gelu", mode="square", template="llava_v0", has_image_marks=True)
    compose(plain, plain, folder, choices)
    return folder
