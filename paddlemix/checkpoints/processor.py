"""Tokenizer, template and image spec of a checkpoint, as one object that training, chat and evaluation share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..conversation.load_tokenizer import load_tokenizer
from ..conversation.messages import Conversation
from ..conversation.templates import ChatTemplate, get_template
from ..conversation.tokenizer import Tokenizer
from ..data.collate import collate, collate_packs
from ..data.encode import encode_turns
from ..data.row import Row
from ..data.sample import Batch, Sample
from ..hub.resolve import resolve
from ..image.load import load_image
from ..image.preprocess import ImageTiles, preprocess
from ..image.spec import ImageSpec
from ..output import write_json
from ..terminal.log import notice
from .image_marks import check_marks
from .layouts import find_layout
from .layouts.folder import Folder
from .layouts.own_folder import PROCESSOR_FILE as FILE
from .layouts.own_folder import processor_json, read_processor_json
from .source import Source, open_source


class LlavaProcessor:
    """Turns conversations into samples, samples into batches, and ids into text. Can be pickled and has no weights."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, spec: ImageSpec):
        self.tokenizer = tokenizer
        self.template = template
        self.spec = spec

    @classmethod
    def from_pretrained(cls, path, base=None) -> LlavaProcessor:
        """Read a checkpoint in any known layout, or the files that `save_pretrained` wrote.

        base: see `open_source`. Prints a notice if the folder's own chat template or vocabulary is not used as it is.
        Raises CheckpointError for missing and broken files.
        """
        folder = Folder(resolve(path))
        return cls._from_files(folder) if _is_whole(folder) else cls._from_model(open_source(folder, base))

    @classmethod
    def from_source(cls, source: Source) -> LlavaProcessor:
        """Return the processor of a checkpoint that is open. See `from_pretrained`."""
        return cls._from_files(source.folder) if _is_whole(source.folder) else cls._from_model(source)

    @classmethod
    def _from_files(cls, folder: Folder) -> LlavaProcessor:
        spec, template = read_processor_json(folder)
        return cls(_checked(load_tokenizer(folder), template, folder), template, spec)

    @classmethod
    def _from_model(cls, source: Source) -> LlavaProcessor:
        for text in source.notices:
            notice(text)
        tokenizer = source.tokenizer or load_tokenizer(source.tokenizer_folder)  # which raises for a folder without one
        template = get_template(source.config.template, has_image_marks=source.config.has_image_marks)
        return cls(_checked(tokenizer, template, source.tokenizer_folder), template, source.config.image)

    def save_pretrained(self, path) -> None:
        """Write the tokenizer's files and processor_config.json."""
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(path)
        write_json(path / FILE, processor_json(self.spec, self.template.name, self.template.has_image_marks))

    def with_template(self, name: str) -> LlavaProcessor:
        """Return the same processor with another template. Raises ValueError for an unknown name."""
        template = get_template(name, has_image_marks=self.template.has_image_marks)
        return LlavaProcessor(self.tokenizer, template, self.spec)

    def encode(self, conversation: Conversation, **options: Any) -> Sample:
        """Return the sample of a conversation: with labels if it ends with an answer, else as a prompt.

        options: folders, max_length and cache_folder of `data.encode.encode_turns`.
        """
        is_prompt = conversation.messages[-1].role == "user" if conversation.messages else False
        return encode_turns(conversation, add_generation_prompt=is_prompt, **self._parts(), **options)[0]

    def encode_to_train(self, conversation: Conversation, **options: Any) -> tuple[Sample, int]:
        """Return a sample with labels, and how many turns were dropped to fit max_length."""
        return encode_turns(conversation, **self._parts(), **options)

    def encode_row(self, row: Row, *, max_length: int | None = None) -> Sample:
        """Return the sample of a row to train on: as it was encoded before if it comes from a cache."""
        if row.encoded is not None:
            return row.encoded.sample(row.folders)[0]
        return self.encode_to_train(row.conversation, folders=row.folders, max_length=max_length)[0]

    def tiles(self, image: Any) -> ImageTiles:
        """Load and preprocess one image: a path, URL, data URI, bytes, PIL image or array. Raises ImageError."""
        return preprocess(load_image(image), self.spec)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return collate(samples, pad_id=self.tokenizer.pad_id)

    def collate_packs(self, packs: Sequence[Sequence[Sample]], pad_to_multiple: int | None = None) -> Batch:
        return collate_packs(packs, pad_id=self.tokenizer.pad_id, pad_to_multiple=pad_to_multiple)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids without special tokens and surrounding white space."""
        return self.tokenizer.decode(list(token_ids)).strip()

    def _parts(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer, "template": self.template, "spec": self.spec}


def _checked(tokenizer: Tokenizer, template: ChatTemplate, folder: Folder) -> Tokenizer:
    """Return the tokenizer. Raises CheckpointError if it lacks the marks that the model has around images."""
    if template.has_image_marks:
        check_marks(tokenizer, folder)
    return tokenizer


def _is_whole(folder: Folder) -> bool:
    """Return whether a folder's processor_config.json is enough, without the config of the model, which says more."""
    if not folder.has_any(FILE):
        return False
    layout = find_layout(folder)
    return not folder.has_any("config.json") if layout is None else layout.has_whole_processor
