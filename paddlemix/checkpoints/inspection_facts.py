"""The result of an inspection, and the descriptions of its parts. Reads no weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..conversation.templates import IMAGE_MARKS, get_template
from ..conversation.tokenizer import Tokenizer
from ..conversation.tokenizer_files import CONFIG_FILE, FAST_FILE, VOCABULARIES
from ..conversation.tokenizer_settings import read_settings
from ..foreign_json import shown
from ..image.anyres import num_image_tokens
from ..image.spec import PIXEL_FIELDS, ImageSpec
from ..tensor_files.stored import CheckpointError, StoredTensor, counted, preview
from .image_marks import check_marks
from .layouts.layout import Source
from .weight_scan import COMPONENTS, WeightFile, component_of

USUAL = ImageSpec().pixels
EXAMPLE_SIZES = ((640, 480), (480, 640), (1920, 1080))


@dataclass(frozen=True)
class Component:
    """A part of the model: how many parameters are stored and how many are expected (None: unknown)."""

    name: str
    num_parameters: int
    num_expected: int | None
    dtypes: tuple[str, ...]


@dataclass
class Inspection:
    """A description of a checkpoint. problems: why the model cannot be used. notes: other facts for the user.

    kind: "model", "part" (a language model or tower alone), "adapter", "projector" or "file". image: fields of
    ImageSpec and counts of tokens. text: template, tokenizer and the tokens that end an answer. trained: of a partial
    checkpoint. missing, unknown, misshapen: names of tensors.
    """

    path: str
    kind: str = "model"
    format: str = ""
    architecture: str = ""
    model: str = ""
    num_parameters: int = 0
    components: list[Component] = field(default_factory=list)
    files: list[WeightFile] = field(default_factory=list)
    image: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    trained: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Add an error raised in the block to the problems, once."""
        try:
            yield
        except (ValueError, OSError) as error:
            if str(error) not in self.problems:
                self.problems.append(str(error))


def count(found: Inspection, tensors: Mapping[tuple[str, str], StoredTensor], expected: Mapping) -> None:
    """Count parameters by component. tensors: by (file, name)."""
    by_component: dict[str, list[StoredTensor]] = {name: [] for name in COMPONENTS}
    wanted = dict.fromkeys(COMPONENTS, 0)
    for (file, name), tensor in tensors.items():
        by_component[component_of(name, file)].append(tensor)
    for name, shape in expected.items():
        wanted[component_of(name)] += math.prod(shape)
    for name, members in by_component.items():
        if members or wanted[name]:
            dtypes = tuple(sorted({tensor.dtype for tensor in members}))
            number = sum(math.prod(tensor.shape) for tensor in members)
            found.components.append(Component(name, number, wanted[name] if expected else None, dtypes))
    found.num_parameters = sum(component.num_parameters for component in found.components)


def compare(found: Inspection, tensors: Mapping[str, StoredTensor], expected: Mapping, is_reported: bool) -> None:
    """Report tensors that are missing, unrecognized or of another shape, and missing components by name.

    is_reported: the problems already say that and why a component is missing.
    """
    found.missing = sorted(set(expected) - set(tensors))
    found.unknown += sorted(set(tensors) - set(expected))
    found.misshapen = [
        f"{name} {list(tensors[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != tuple(shape)
    ]
    rest = found.missing
    for component in found.components:
        names = [name for name in rest if component_of(name) == component.name]
        if names and component.num_parameters == 0:
            rest = [name for name in rest if name not in names]
            if not is_reported:
                found.problems.append(f"{component.name}: missing altogether ({counted(names)})")
    for title, names in (("missing", rest), ("unknown", found.unknown), ("of another shape", found.misshapen)):
        if names:
            found.problems.append(f"{counted(names)} {title}: {preview(names, 3)}")


def describe_image(spec: ImageSpec) -> dict[str, Any]:
    """Return the fields of a spec, and the smallest and largest number of tokens of an image and those of some sizes.

    pixels: preprocessing that differs from the usual one.
    """
    counts = [num_image_tokens(size, spec) for size in _sizes(spec)]
    return {
        "mode": spec.mode,
        "side": spec.side,
        "patch_size": spec.patch_size,
        "merge": spec.merge,
        "grids": [list(grid) for grid in spec.grids],
        "mean": list(spec.mean),
        "std": list(spec.std),
        "pixels": {name: getattr(spec, name) for name in PIXEL_FIELDS[2:] if getattr(spec, name) != USUAL[name]},
        "tokens_per_tile": spec.patches_per_side**2 + int(spec.has_class_token),
        "min_tokens": min(counts),
        "max_tokens": max(counts),
        "tokens": {f"{width}x{height}": num_image_tokens((width, height), spec) for width, height in EXAMPLE_SIZES},
    }


def _sizes(spec: ImageSpec) -> list[tuple[int, int]]:
    """Return sizes (width, height) with the smallest and the largest number of tokens: each grid, and long stripes."""
    stripes = [(edge, 1) for edge in (10, 100, 1000, 10_000)]
    return [*spec.grids, *stripes, *((height, width) for width, height in stripes), (spec.side, spec.side)]


def describe_text(source: Source, found: Inspection) -> None:
    """Describe the template, the tokenizer and the tokens that end an answer."""
    config = source.config
    found.text = {"template": config.template, "eos_token_ids": list(config.eos_token_ids), "tokenizer": None}
    with found.collecting():
        get_template(config.template)
    if config.has_image_marks:
        found.text["image_marks"] = list(IMAGE_MARKS)
    if source.template is not None:
        found.text["template_source"] = source.template.source
        found.notes += [source.template.notice] if source.template.notice else []
    with found.collecting():
        files, tokenizer = source.tokenizer_files, source.tokenizer
        if files is None:
            raise CheckpointError(f"there is no tokenizer, expected one of {', '.join(VOCABULARIES)}")
        found.notes += [files.notice] if files.notice else []
        unused = ", ".join(f"{key} {shown(value)}" for key, value in read_settings(files).unused.items())
        found.notes += [f"{CONFIG_FILE} states {unused}, which changes nothing here"] if unused else []
        path = source.tokenizer_folder / files.vocabulary
        found.text |= {
            "tokenizer": str(path.relative_to(source.path) if path.is_relative_to(source.path) else path),
            "tokenizer_kind": "tokenizers" if files.vocabulary == FAST_FILE else "SentencePiece",
            "num_tokens": tokenizer.vocab_size,
            "eos_tokens": [_piece(tokenizer, number) for number in config.eos_token_ids],
        }
        rows = config.language.vocab_size
        if tokenizer.vocab_size > rows:
            raise CheckpointError(f"the tokenizer has {tokenizer.vocab_size} tokens, the model only {rows} embeddings")
        if not config.eos_token_ids:
            found.notes.append("no file names the token that ends an answer (eos_token_id)")
        if config.has_image_marks:
            check_marks(tokenizer, source.tokenizer_folder)


def _piece(tokenizer: Tokenizer, number: int) -> str:
    return tokenizer.id_to_piece(number) if 0 <= number < tokenizer.vocab_size else "(not in the vocabulary)"
