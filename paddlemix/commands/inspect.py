"""`paddlemix inspect`: show what a checkpoint is, what it contains and what is missing."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..terminal.sizes import in_bytes
from ..terminal.visible import visible, visible_json, visible_line
from .options import add_hub_options, resolve_models
from .parser import MODEL, add_examples

if TYPE_CHECKING:
    from ..checkpoints.inspection_facts import Inspection

LABEL_WIDTH = 17
LANGUAGE_PARTS = ("embeddings", "layers", "head")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "path",
        metavar="PATH",
        help="folder of a model, an adapter or a projector, a weight file, or the name of a model",
    )
    parser.add_argument(
        "--model-base",
        default=None,
        help="base model of PATH if PATH is an adapter or a projector (default: the one it names)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    add_hub_options(parser)
    add_examples(parser, f"paddlemix inspect {MODEL}")


def run(arguments: argparse.Namespace) -> int:
    """Print the report; return 1 if something is missing or wrong."""
    import dataclasses

    from ..checkpoints.inspection import inspect

    (path,) = resolve_models(arguments, arguments.path)
    found = inspect(path, arguments.model_base)
    if arguments.json:
        print(visible_json(dataclasses.asdict(found)))
    else:
        print(visible(as_text(found)))
    return 1 if found.problems else 0


def as_text(found: Inspection) -> str:
    """Return the report as text in a few columns."""
    blocks = [_head(found), _parameters(found), _trained(found), _use(found), _files(found), _verdict(found)]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _row(label: str, text: str) -> str:
    return f"  {label:<{LABEL_WIDTH}}{visible_line(text)}"


def _head(found: Inspection) -> list[str]:
    num_bytes = sum(file.num_bytes for file in found.files)
    files = f"{len(found.files)} weight file{'s' * (len(found.files) != 1)}, {in_bytes(num_bytes)}"
    rows = [("format", found.format or "unknown"), ("architecture", found.architecture), ("model", found.model)]
    return [visible_line(found.path), *(_row(*row) for row in rows if row[1]), _row("weights", files)]


def _parameters(found: Inspection) -> list[str]:
    if not found.components:
        return []
    language = [component for component in found.components if component.name in LANGUAGE_PARTS]
    rows = [_component(component) for component in found.components if component not in language]
    if language:
        total = sum(component.num_parameters for component in language)
        rows.append(("language model", f"{total:,}", ""))
        rows += [(f"  {name}", number, rest) for name, number, rest in map(_component, language)]
    rows.append(("total", f"{found.num_parameters:,}", _billions(found.num_parameters)))
    width = max(len(number) for _, number, _ in rows)
    return [
        "parameters",
        *(f"  {name:<{LABEL_WIDTH}}{number:>{width}}  {rest}".rstrip() for name, number, rest in rows),
    ]


def _billions(number: int) -> str:
    return f"({number / 1e9:.2f} B)" if number >= 1e8 else ""


def _component(component) -> tuple[str, str, str]:
    num_missing = (component.num_expected or 0) - component.num_parameters
    rest = ", ".join(component.dtypes)
    if num_missing > 0:
        rest = f"{rest}  {num_missing:,} missing".strip()
    return component.name, f"{component.num_parameters:,}", rest


def _trained(found: Inspection) -> list[str]:
    from ..tensor_files.stored import preview

    values = found.trained
    if not values:
        return []
    rows = []
    if "rank" in values:
        scaling = f", scaling {values['scaling']:g}" if "scaling" in values else ""
        rows.append(_row("adapter", f"rank {values['rank']}, alpha {values['alpha']}{scaling}"))
        rows.append(_row("changes", f"{values['num_layers']} matrices: {', '.join(values['targets'])}"))
    whole = values["whole"]
    rows.append(_row("trained whole", preview(whole, 4) if whole else "nothing"))
    if "base" in values:
        rows.append(_row("base", values["base"] or "not found"))
    return ["trained", *rows]


def _use(found: Inspection) -> list[str]:
    rows = []
    if found.image:
        rows += _image(found.image)
    text = found.text
    if text:
        source = f" ({text['template_source']})" if text.get("template_source") else ""
        rows.append(_row("template", f"{text['template']}{source}"))
        rows += [_row("image marks", " and ".join(text["image_marks"]))] if "image_marks" in text else []
    if text.get("tokenizer"):
        rows.append(_row("tokenizer", f"{text['tokenizer']} ({text['tokenizer_kind']}, {text['num_tokens']:,} tokens)"))
        ends = [f"{piece} ({number})" for piece, number in zip(text["eos_tokens"], text["eos_token_ids"], strict=True)]
        rows.append(_row("answers end at", " or ".join(ends) or "nothing"))
    return ["use", *rows] if rows else []


def _image(image: dict) -> list[str]:
    patches = f"patches of {image['patch_size']}"
    rows = [_row("images", f"{image['mode']}, {image['side']} px, {patches}")]
    if image["pixels"]:
        rows.append(_row("pixels", ", ".join(f"{name} {_plain(value)}" for name, value in image["pixels"].items())))
    if image["mode"] == "anyres":
        grids = " ".join(f"{width}x{height}" for width, height in image["grids"])
        rows.append(_row("grids", f"{grids} (width x height), merged as {image['merge']}"))
    least, most = image["min_tokens"], image["max_tokens"]
    if least == most:
        return [*rows, _row("tokens", f"{most:,} an image")]
    examples = ", ".join(f"{size}: {number:,}" for size, number in image["tokens"].items())
    return [*rows, _row("tokens", f"{least:,} to {most:,} an image ({examples})")]


def _plain(value: Any) -> str:
    """Return a setting as text, a list of numbers without brackets."""
    return " ".join(f"{number:g}" for number in value) if isinstance(value, tuple | list) else str(value)


def _files(found: Inspection) -> list[str]:
    if not found.files:
        return []
    names = [visible_line(file.name) for file in found.files]
    width = max(map(len, names))
    rows = []
    for name, file in zip(names, found.files, strict=True):
        contents = (
            "cannot be read" if file.num_tensors is None else f"{file.num_tensors:>5} tensors  {', '.join(file.dtypes)}"
        )
        rows.append(f"  {name:<{width}}  {in_bytes(file.num_bytes):>8}  {contents}".rstrip())
    return ["files", *rows]


def _verdict(found: Inspection) -> list[str]:
    notes = [f"note: {note}" for note in found.notes]
    if not found.problems:
        return [*notes, "nothing is missing"]
    title = "1 problem" if len(found.problems) == 1 else f"{len(found.problems)} problems"
    return [*notes, title, *("  - " + problem.replace("\n", "\n    ") for problem in found.problems)]
