"""Choose the parameters that train, and the layers that get adapters.

Patterns are matched against this project's names and against PaddleMIX's.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import paddle
from paddle import nn

from ..checkpoints.layouts import paddlemix
from ..checkpoints.layouts.components import EMBEDDING
from ..models.config import LlavaConfig
from ..models.language.families import get_family
from ..models.llava import Llava
from ..models.quantized import QuantizedLinear
from ..tensor_files.stored import preview
from ..terminal.log import notice

if TYPE_CHECKING:
    from .arguments import ModelArguments

PROJECTOR_PARTS = ("projector.", "image_newline")
TOWER_PARTS = ("vision_tower.",)
# LLaVA-NeXT's names of the parts that can train, with how their parameters' names begin.
TUNABLE_PARTS = {
    "mm_vision_tower": TOWER_PARTS,
    "mm_mlp_adapter": PROJECTOR_PARTS,
    "mm_language_model": ("language_model.",),
}
LINEAR_NAMES = re.compile(r"(_proj|fc1|fc2|lm_head|projector\.\d+(\.proj\.\d+)?)$")


def freeze_parameters(model: Llava, args: ModelArguments) -> None:
    """Choose the trainable parameters of a run without adapters by its settings."""
    freeze(
        model,
        args.freeze_include,
        args.freeze_exclude,
        is_tower_trained=args.unfreeze_mm_vision_tower,
        is_projector_frozen=args.freeze_mm_mlp_adapter,
        parts=["mm_mlp_adapter"] if args.tune_mm_mlp_adapter else args.mm_tunable_parts,
        has_trained_marks=trains_marks(model.config, args),
    )


def trained_names(config: LlavaConfig, args: ModelArguments) -> list[str]:
    """Return the names of the parameters that `freeze_parameters` lets train. Needs no weights."""
    with paddle.LazyGuard():
        model = Llava(config)
    freeze_parameters(model, args)
    return [name for name, parameter in model.named_parameters() if not parameter.stop_gradient]


def trains_marks(config: LlavaConfig, args: ModelArguments) -> bool:
    """Return whether a run is stage 1 and trains the embeddings of the marks around an image beside the projector.

    LLaVA's first version does so: all embeddings are trainable, only those of the marks get gradients, and the head
    is frozen (orig_embeds_params in llava/model/llava.py). Embeddings that are tied to the head stay frozen with it.
    """
    return args.tune_mm_mlp_adapter and config.has_image_marks and not config.language.tie_word_embeddings


def freeze(
    model: Llava,
    include: list[str] | None = None,
    exclude: list[str] | None = None,
    *,
    is_tower_trained: bool = False,
    is_projector_frozen: bool = False,
    parts: list[str] | None = None,
    has_trained_marks: bool = False,
) -> None:
    """Choose trainable parameters: by part, then by pattern.

    parts: keys of TUNABLE_PARTS; None for all but the tower. A parameter that matches only include is frozen, and one
    that matches only exclude is trained. One that matches both or neither keeps the state of its part (PaddleMIX's
    rule). Tower layers after the selected features never train. has_trained_marks: the embeddings train too. Raises
    ValueError for unknown parts.
    """
    starts = _starts(parts) + ((EMBEDDING,) if has_trained_marks else ())
    is_tower_trained = is_tower_trained or "vision_tower." in starts
    unused = {*(include or ()), *(exclude or ())}
    for name, parameter in model.named_parameters():
        parameter.stop_gradient = not name.startswith(starts)
        names = names_of(name, model.config)
        included, excluded = (
            {pattern for pattern in patterns or () if any(fnmatchcase(candidate, pattern) for candidate in names)}
            for patterns in (include, exclude)
        )
        unused -= included | excluded
        if bool(included) != bool(excluded):
            parameter.stop_gradient = bool(included)
    _report_unused("freeze_include and freeze_exclude", "parameter", unused)
    if is_tower_trained:
        _train_tower(model)
    if is_projector_frozen:
        for parameter in model.projector.parameters():
            parameter.stop_gradient = True


def _starts(parts: list[str] | None) -> tuple[str, ...]:
    """Return how the names of the parts' parameters begin. An entry may name several parts, separated by commas."""
    if parts is None:
        return (*TUNABLE_PARTS["mm_mlp_adapter"], *TUNABLE_PARTS["mm_language_model"])
    names = [name.strip() for entry in parts for name in entry.split(",")]
    unknown = [name for name in names if name not in TUNABLE_PARTS]
    if unknown or not names:
        raise ValueError(f"mm_tunable_parts is {parts}: expected some of {', '.join(TUNABLE_PARTS)}")
    return tuple(start for name in names for start in TUNABLE_PARTS[name])


def _train_tower(model: Llava) -> None:
    """Train the tower up to the layer whose features are selected."""
    num_used = model.config.vision.num_used_layers
    for name, parameter in model.vision_tower.named_parameters():
        match = re.match(r"layers\.(\d+)\.", name)
        is_unused = name.startswith("post_norm") or (match and int(match.group(1)) >= num_used)
        parameter.stop_gradient = bool(is_unused)


def _report_unused(key: str, what: str, patterns: Iterable[str]) -> None:
    names = sorted(patterns)
    if names:
        notice(f"{key}: no {what} matches {', '.join(map(repr, names))}")


def names_of(name: str, config) -> list[str]:
    """Return a parameter's name and its PaddleMIX name."""
    theirs = paddlemix.table(config).to_theirs(name)
    return [name, theirs[0]] if theirs else [name]


def component_of(name: str) -> str:
    """Return the component that a parameter's name belongs to."""
    return name.split(".")[0]


def mark_trained(model: Llava) -> None:
    """Remove the components that train from the config's list of those with random values."""
    frozen = {component_of(name) for name, parameter in model.named_parameters() if parameter.stop_gradient}
    untrained = tuple(part for part in model.config.untrained if part in frozen)
    model.config = dataclasses.replace(model.config, untrained=untrained)


def lora_targets(model: Llava, patterns: list[str] | None) -> list[str]:
    """Return the names of the linear layers that get adapters.

    patterns: regular expressions that must match a layer's whole name, ours or PaddleMIX's; None for those of the
    decoder's family. Raises ValueError for an empty list, a broken expression, or when no layer matches.
    """
    is_named = patterns is not None
    if not is_named:
        patterns = list(get_family(model.config.language.family).lora_targets)
    if not patterns:
        raise ValueError("lora is true but lora_target_modules is empty: name layers such as 'llama.layer.*q_proj.*'")
    try:
        compiled = [re.compile(pattern) for pattern in patterns]
    except re.error as error:
        raise ValueError(f"lora_target_modules {patterns} has a broken regular expression: {error}") from None
    linears = [
        name
        for name, layer in model.named_sublayers()
        if isinstance(layer, (nn.Linear, QuantizedLinear)) and LINEAR_NAMES.search(name)
    ]
    found, used = [], set()
    for name in linears:
        names = [candidate.removesuffix(".weight") for candidate in names_of(f"{name}.weight", model.config)]
        matching = {one.pattern for one in compiled if any(map(one.fullmatch, names))}
        found += [name] if matching else []
        used |= matching
    if not found:
        raise ValueError(f"lora_target_modules {patterns} matches no layer; there are {preview(linears, 8)}")
    _report_unused("lora_target_modules", "layer", set(patterns) - used if is_named else ())
    return found


def report(named_parameters) -> str:
    """Return a table with a line for each component: its trained parameters, and all of them."""
    counts: dict[str, list[int]] = {}
    for name, parameter in named_parameters:
        component = "lora" if "lora_" in name else component_of(name)
        line = counts.setdefault(component, [0, 0])
        line[0] += 0 if parameter.stop_gradient else parameter.size
        line[1] += parameter.size
    lines = [f"{'component':<16}{'trained':>16}{'all':>16}"]
    total = [sum(line[column] for line in counts.values()) for column in (0, 1)]
    for component, (trained, number) in [*counts.items(), ("total", total)]:
        lines.append(f"{component:<16}{trained:>16,}{number:>16,}")
    return "\n".join(lines)
