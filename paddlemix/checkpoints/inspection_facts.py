"""What a look at a checkpoint found, and how its parts are described. Reads no weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..conversation.templates import get_template
from ..conversation.tokenizer import make_tokenizer
from ..conversation.tokenizer_files import CONFIG_FILE, FAST_FILE, VOCABULARIES
from ..conversation.tokenizer_settings import read_settings
from ..conversation.vocabulary_choice import read_files
from ..foreign_json import shown
from ..image.anyres import num_image_tokens
from ..image.spec import PIXEL_FIELDS, ImageSpec
from ..models.config import LlavaConfig
from ..tensor_files.stored import CheckpointError, StoredTensor, preview
from .layouts.folder_template import TemplateChoice
from .weight_scan import COMPONENTS, WeightFile, component_of

USUAL = ImageSpec().pixels
EXAMPLE_SIZES = ((640, 480), (480, 640), (1920, 1080))


@dataclass(frozen=True)
class Component:
    """A part of the model: how many numbers are stored, how many the configuration asks for (None: not known)."""

    name: str
    num_parameters: int
    num_expected: int | None
    dtypes: tuple[str, ...]


@dataclass
class Inspection:
    """What was found. problems: what keeps the model from being used; notes: what is good to know.

    kind: "model", "part" (a language model or tower alone), "adapter" or "projector". image: ImageSpec's fields and
    counts of tokens. text: template, tokenizer and what ends an answer. trained: of what was trained apart from its
    base. missing, unknown, misshapen: names of tensors.
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
        """Add what is raised in the block to the problems, once."""
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


def compare(found: Inspection, shapes: Mapping, expected: Mapping, is_told: bool) -> None:
    """Report tensors that are missing, that nobody knows, or of another shape; whole components by their name.

    is_told: that and why a component is missing stands among the problems already.
    """
    found.missing = sorted(set(expected) - set(shapes))
    found.unknown += sorted(set(shapes) - set(expected))
    found.misshapen = [
        f"{name} {list(shapes[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in shapes and tuple(shapes[name]) != tuple(shape)
    ]
    rest = found.missing
    for component in found.components:
        names = [name for name in rest if component_of(name) == component.name]
        if names and component.num_parameters == 0:
            rest = [name for name in rest if name not in names]
            if not is_told:
                found.problems.append(f"{component.name}: missing altogether ({_tensors(names)})")
    for title, names in (("missing", rest), ("unknown", found.unknown), ("of another shape", found.misshapen)):
        if names:
            found.problems.append(f"{_tensors(names)} {title}: {preview(names, 3)}")


def _tensors(names: list[str]) -> str:
    return "1 tensor" if len(names) == 1 else f"{len(names)} tensors"


def describe_image(spec: ImageSpec) -> dict[str, Any]:
    """Return the fields of a spec and how many tokens an image becomes, at least and at most and for a few sizes.

    pixels: what is done to an image otherwise than usual.
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
    """Return sizes (width, height) among whose counts are the smallest and the largest: each grid and long stripes."""
    stripes = [(edge, 1) for edge in (10, 100, 1000, 10_000)]
    return [*spec.grids, *stripes, *((height, width) for width, height in stripes), (spec.side, spec.side)]


def describe_text(
    path: Path, base: Path | None, config: LlavaConfig, found: Inspection, choice: TemplateChoice | None = None
) -> None:
    """Tell template, tokenizer and what ends an answer; a tokenizer may lie with the language model or the base.

    choice: what is known of the template.
    """
    found.text = {"template": config.template, "eos_token_ids": list(config.eos_token_ids), "tokenizer": None}
    with found.collecting():
        get_template(config.template)
    if choice is not None:
        found.text["template_source"] = choice.source
        found.notes += [choice.notice] if choice.notice else []
    home = next((place for place in (path, path / "llm", base) if place and _has_vocabulary(place)), None)
    if home is None:
        found.problems.append(f"there is no tokenizer, expected one of {', '.join(VOCABULARIES)}")
        return
    with found.collecting():
        files = read_files(home)
        tokenizer, name = make_tokenizer(files), files.vocabulary
        found.notes += [files.notice] if files.notice else []
        told = ", ".join(f"{key} {shown(value)}" for key, value in read_settings(files).told.items())
        found.notes += [f"{CONFIG_FILE} states {told}, which changes nothing here"] if told else []
        found.text |= {
            "tokenizer": str((home / name).relative_to(path) if home.is_relative_to(path) else home / name),
            "tokenizer_kind": "tokenizers" if name == FAST_FILE else "SentencePiece",
            "num_tokens": tokenizer.vocab_size,
            "eos_tokens": [_piece(tokenizer, number) for number in config.eos_token_ids],
        }
        rows = config.language.vocab_size
        if tokenizer.vocab_size > rows:
            raise CheckpointError(f"the tokenizer has {tokenizer.vocab_size} tokens, the model only {rows} embeddings")
        if not config.eos_token_ids:
            found.notes.append("nothing says which token ends an answer (eos_token_id)")


def _piece(tokenizer, number: int) -> str:
    return tokenizer.id_to_piece(number) if 0 <= number < tokenizer.vocab_size else "(not in the vocabulary)"


def _has_vocabulary(folder: Path) -> bool:
    return any((folder / name).is_file() for name in VOCABULARIES)
