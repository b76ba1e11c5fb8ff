"""Tokenizer, template and image spec of a checkpoint, as one object that training, chat and evaluation share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..conversation.messages import Conversation
from ..conversation.templates import ChatTemplate, get_template
from ..conversation.tokenizer import Tokenizer, load_tokenizer
from ..data.collate import collate, collate_packs
from ..data.encode import encode, encode_turns
from ..data.sample import Batch, Sample
from ..hub import hub
from ..image.load import load_image
from ..image.preprocess import preprocess
from ..image.spec import ImageSpec
from ..image.tiles import ImageTiles
from ..output import write_json
from ..terminal.log import notice
from .layouts.paddle import FORMAT, FORMAT_KEY, read_processor_json
from .layouts.paddle import PROCESSOR_FILE as FILE
from .side_files import kind_of
from .source import notices_of, read_source, tokenizer_folder


class LlavaProcessor:
    """Turns conversations into samples, samples into batches, and ids back into text. Picklable; holds no weights."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, spec: ImageSpec):
        self.tokenizer = tokenizer
        self.template = template
        self.spec = spec

    @classmethod
    def from_pretrained(cls, path, base=None) -> LlavaProcessor:
        """Read a model folder of any known layout, side files with their base, or what `save_pretrained` wrote.

        base: as in `load_model`. Tells where the folder's own chat template or vocabulary is not used as it is.
        Raises CheckpointError for what is missing or broken.
        """
        path = hub.resolve(path)
        if _is_complete(path):
            spec, template = read_processor_json(path / FILE)
            return cls(load_tokenizer(path), get_template(template), spec)
        layout, config = read_source(path, base)
        for text in notices_of(path, layout, config):
            notice(text)
        return cls(load_tokenizer(tokenizer_folder(path, layout)), get_template(config.template), config.image)

    def save_pretrained(self, path) -> None:
        """Write the tokenizer's files and processor_config.json."""
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(path)
        spec = dataclasses.asdict(self.spec)
        write_json(path / FILE, {FORMAT_KEY: FORMAT, "image": spec, "template": self.template.name})

    def with_template(self, name: str) -> LlavaProcessor:
        """Return the same processor with another template. Raises ValueError for an unknown name."""
        return LlavaProcessor(self.tokenizer, get_template(name), self.spec)

    def encode(self, conversation: Conversation, **options: Any) -> Sample:
        """Return the sample of a conversation: with labels if it ends with an answer, else as a prompt.

        options: folders, max_length and cache_folder of `data.encode.encode`.
        """
        is_prompt = conversation.messages[-1].role == "user" if conversation.messages else False
        return encode(conversation, add_generation_prompt=is_prompt, **self._parts(), **options)

    def encode_to_train(self, conversation: Conversation, **options: Any) -> tuple[Sample, int]:
        """Return a sample with labels and how many turns were dropped to fit max_length."""
        return encode_turns(conversation, **self._parts(), **options)

    def tiles(self, image: Any) -> ImageTiles:
        """Load and preprocess one picture: a path, URL, data URI, bytes, PIL image or array. Raises ImageError."""
        return preprocess(load_image(image), self.spec)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return collate(samples, pad_id=self.tokenizer.pad_id)

    def collate_packs(self, packs: Sequence[Sequence[Sample]], pad_to_multiple: int | None = None) -> Batch:
        return collate_packs(packs, pad_id=self.tokenizer.pad_id, pad_to_multiple=pad_to_multiple)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids without special tokens and surrounding blanks."""
        return self.tokenizer.decode(list(token_ids)).strip()

    def _parts(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer, "template": self.template, "spec": self.spec}


def _is_complete(path: Path) -> bool:
    """Tell if a folder holds what `save_pretrained` writes and no config of a model that would say more."""
    if not (path / FILE).is_file():
        return False
    kind = kind_of(path)
    # Our LoRA folders have it too; they need their base for the model, but not for this.
    return kind == "lora" or (kind is None and not (path / "config.json").is_file())
