"""adapter_config.json of Hugging Face's peft: which keys are used, which change nothing, and which are refused.

The keys are the fields of LoraConfig in peft 0.17.1 and 0.21.2, and further ones of older versions and ms-swift.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...foreign_json import (
    FLAG,
    OBJECT,
    TEXT,
    KeyRules,
    Kind,
    check_keys,
    check_values,
    either,
    is_silent,
    list_of,
    one_of,
    shown,
    whole_number,
)
from ...tensor_files.stored import CheckpointError, preview
from .folder import Folder

CONFIG = "adapter_config.json"
CHOICE_KEYS = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
BASE_KEY = "base_model_name_or_path"
MAX_RANK, MAX_ALPHA = 1 << 16, 1e6
RULES = KeyRules(
    used=frozenset(
        "peft_type base_model_name_or_path revision r lora_alpha rank_pattern alpha_pattern use_rslora use_dora "
        "lora_bias bias init_lora_weights trainable_token_indices ensure_weight_tying modules_to_save "
        "velora_config target_modules exclude_modules layers_to_transform layers_pattern".split()
    ),
    # Settings of training, and those of variants that the keys below switch on.
    # NOTE: fan_in_fan_out is for layers that keep [in, out], and peft ignores it for Linear.
    inert=frozenset(
        "task_type auto_mapping peft_version inference_mode runtime_config lora_dropout fan_in_fan_out megatron_core "
        "qalora_group_size loftq_config eva_config corda_config lora_ga_config merge_weights lora_dtype lorap_lr_ratio "
        "lorap_emb_lr swift_type".split()
    ),
)
# Variants whose result is not W + B A * scaling over the base's own W.
VARIANTS = {
    "use_qalora": "its factors work on pooled features",
    "use_bdlora": "its factors are stored as blocks",
    "layer_replication": "its model has other layers than the base",
    "target_parameters": "its tensors do not say which parameter they change",
    "alora_invocation_tokens": "it changes only a part of the tokens",
    "arrow_config": "it chooses between adapters token by token",
    "megatron_config": "its layers are Megatron's",
    "monteclora_config": "it samples its factors",
    "kasa_config": "it changes the base model too",
    "enable_lora": "its factors are those of some parts of a matrix",
}
NAMES, INDEX = list_of(TEXT, least=0), whole_number(0, 1 << 16)
# Initializations that do not change the base. PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA change it.
PLAIN_STARTS = ("gaussian", "orthogonal", "eva", "mica", "true", "false")
KINDS = {
    "bias": one_of(("none", "all", "lora_only")).or_null(),
    "use_rslora": FLAG.or_null(),
    "use_dora": FLAG.or_null(),
    "lora_bias": FLAG.or_null(),
    "ensure_weight_tying": FLAG.or_null(),
    "modules_to_save": Kind(NAMES.is_good, "a list of names of modules").or_null(),
    "rank_pattern": OBJECT.or_null(),
    "alpha_pattern": OBJECT.or_null(),
    BASE_KEY: TEXT.or_null(),
    "revision": TEXT.or_null(),
    **dict.fromkeys(("target_modules", "exclude_modules"), either(TEXT, NAMES).or_null()),
    "layers_to_transform": either(INDEX, list_of(INDEX, least=0)).or_null(),
    "layers_pattern": either(TEXT, NAMES).or_null(),
}


# A repetition in a repeated group, as in (a+)+, can take exponential time.
NESTED_REPETITION = re.compile(r"\([^()]*[*+{][^()]*\)[*+{]")


@dataclass(frozen=True)
class PeftConfig:
    """The settings of an adapter. path: the file. values: its content, checked."""

    path: Path
    values: Mapping[str, Any]

    @property
    def is_dora(self) -> bool:
        return bool(self.values.get("use_dora"))

    @property
    def has_lora_bias(self) -> bool:
        return bool(self.values.get("lora_bias"))

    @property
    def trains_bias(self) -> str | None:
        """The setting for the base's biases, None if they were not trained."""
        value = self.values.get("bias")
        return None if value in (None, "none") else value

    @property
    def saved_modules(self) -> tuple[str, ...]:
        """Names of the modules that were trained whole."""
        return tuple(self.values.get("modules_to_save") or ())

    def rank(self, layer: str) -> int:
        """Return r of a layer. Raises CheckpointError."""
        return self._of_layer(layer, "r", "rank_pattern", MAX_RANK, is_whole=True)

    def scaling(self, layer: str) -> float:
        """Return alpha / r, or alpha / sqrt(r) for rank-stabilized LoRA. Raises CheckpointError."""
        rank, alpha = self.rank(layer), self._of_layer(layer, "lora_alpha", "alpha_pattern", MAX_ALPHA)
        return alpha / math.sqrt(rank) if self.values.get("use_rslora") else alpha / rank

    def token_numbers(self, layer: str, num_rows: int) -> tuple[int, ...]:
        """Return the numbers of the vocabulary's num_rows rows that were trained alone. Raises CheckpointError."""
        stated = self.values.get("trainable_token_indices")
        if isinstance(stated, dict):
            stated = next((stated[name] for name in stated if f".{layer}".endswith(f".{name}")), None)
        is_good = isinstance(stated, list) and all(type(one) is int and one >= 0 for one in stated)
        if not is_good or len(stated) != num_rows:
            raise CheckpointError(
                f"{self.path}: trainable_token_indices {shown(stated)} for {layer}, expected a list of {num_rows} "
                "numbers of tokens, one for each row that the weights hold"
            )
        return tuple(stated)

    def check_chosen(self, layers: Iterable[str]) -> None:
        """Raise CheckpointError for layers with factors that the settings exclude.

        peft would not load these factors, so that either the settings or the weights are not those of the training. A
        pattern in target_modules is ignored, since it may fit the names of another version of transformers.
        """
        outside = [layer for layer in layers if not self._is_chosen(layer)]
        if outside and not self.values.get("ensure_weight_tying"):  # with it peft adds the layer that is tied to one
            keys = [key for key in CHOICE_KEYS if not is_silent(self.values.get(key))]
            raise CheckpointError(
                f"{self.path} leaves out {len(outside)} layers that the weights have factors for "
                f"({preview(outside, 4)}), by {', '.join(keys)}: peft would not load them. Give the settings that the "
                "adapter was trained with"
            )

    def _is_chosen(self, layer: str) -> bool:
        """Return whether peft gives a layer an adapter (`check_target_module_exists` in `tuners/tuners_utils.py`)."""
        target, excluded = self.values.get("target_modules"), self.values.get("exclude_modules")
        if excluded and _is_named(excluded, layer):
            return False
        if target and not isinstance(target, str) and not _is_named(target, layer):
            return False
        chosen = self.values.get("layers_to_transform")
        if chosen is None or chosen == []:
            return True
        patterns = self.values.get("layers_pattern") or [r"[^.]*"]
        patterns = [patterns] if isinstance(patterns, str) else patterns
        matches = (re.match(rf".*\.{pattern}\.(\d+)\.", layer) for pattern in patterns)
        number = next((int(match[1]) for match in matches if match), None)
        return number in (chosen if isinstance(chosen, list) else [chosen])

    def _of_layer(self, layer: str, key: str, patterns: str, most: float, *, is_whole: bool = False):
        """Return a layer's value: that of the first pattern that the end of its name matches, else the common one."""
        value = self.values.get(key)
        for pattern, special in (self.values.get(patterns) or {}).items():
            if re.fullmatch(rf"(.*\.)?({pattern})", layer):
                value = special
                break
        is_number = type(value) is int or (type(value) is float and not is_whole)
        if not is_number or not 0 < value <= most:
            kind = "a whole number from 1" if is_whole else "a number above 0"
            raise CheckpointError(f"{self.path} has {key} {shown(value)} for {layer}, expected {kind} to {most:g}")
        return value


def read_config(folder: Folder) -> PeftConfig:
    """Read an adapter's settings. Raises CheckpointError for unknown, wrong and unsupported ones."""
    path, values = folder / CONFIG, folder.json(CONFIG)
    kind = values.get("peft_type") or "LORA"
    if kind != "LORA":
        raise CheckpointError(f"{path}: adapters of type {kind!r} are not read, expected 'LORA' (key peft_type)")
    for key, reason in VARIANTS.items():
        if not is_silent(values.get(key)):
            raise CheckpointError(
                f"{path}: {key} is set, which cannot be merged here, as {reason} ({key} {shown(values[key])}): merge "
                "it into its base with peft, if that can, and load the result"
            )
    check_keys(values, RULES, str(path), CheckpointError)
    check_values(values, KINDS, str(path), CheckpointError)
    _check_start(path, values.get("init_lora_weights"))
    for key in ("rank_pattern", "alpha_pattern"):
        _check_patterns(path, key, values.get(key) or {})
    for key in CHOICE_KEYS:
        if isinstance(values.get(key), str):
            _check_patterns(path, key, [values[key]])
    return PeftConfig(path, values)


def _is_named(names: str | list[str], layer: str) -> bool:
    """Return whether a pattern matches a layer's whole name, or one of the names matches its end."""
    if isinstance(names, str):
        return re.fullmatch(names, layer) is not None
    return any(layer == name or layer.endswith(f".{name}") for name in names)


def _check_start(path: Path, start: Any) -> None:
    is_plain = start is None or isinstance(start, bool)
    if not is_plain and not (isinstance(start, str) and start.lower() in PLAIN_STARTS):
        raise CheckpointError(
            f"{path}: init_lora_weights is {start!r}, which changes the base model too, so that the adapter "
            "cannot be merged into the base as it is: let peft convert it to a plain LoRA, or merge it there"
        )


def _check_patterns(path: Path, key: str, patterns: Iterable[str]) -> None:
    for pattern in patterns:
        if NESTED_REPETITION.search(pattern):
            raise CheckpointError(f"{path}: {pattern!r} of {key} repeats a repetition: write it without")
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise CheckpointError(f"{path}: {pattern!r} of {key} is not a pattern: {error}") from None
