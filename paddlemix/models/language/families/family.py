"""A kind of decoder as data: config keys, defaults and weight names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ....foreign_json import FLAG, TEXT, KeyRules, Kind, check_keys, check_values, shown
from ...config import LanguageConfig
from ...config_kinds import LANGUAGE
from .generic_keys import GENERIC, GENERIC_KINDS
from .rope_keys import read_rope, rope_json

# Keys that mean the same in the config.json of every family and in LanguageConfig.
SHARED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "rope_theta",
    "max_position_embeddings",
    "tie_word_embeddings",
)
# transformers' defaults for LLaMA, which most families share. A file may omit keys that equal them.
DEFAULTS = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "rope_scaling": None,
    "hidden_act": "silu",
    "mlp_bias": False,
    "original_max_position_embeddings": None,
    "partial_rotary_factor": 1.0,
}
FLAG_KINDS = dict.fromkeys(
    ("attention_bias", "bias", "mlp_bias", "no_bias", "use_bias", "use_sliding_window"), FLAG.or_null()
)
FULL, SLIDING = "full_attention", "sliding_attention"  # layer_types
QUERY, KEY, VALUE = (f"self_attn.{name}_proj" for name in "qkv")
GATE, UP = (f"mlp.{name}_proj" for name in ("gate", "up"))
ATTENTION_PROJECTIONS = r"language_model\.layers\.\d+\.self_attn\.[qkvo]_proj"
MLP_PROJECTIONS = r"language_model\.layers\.\d+\.mlp\.(gate|up|down)_proj"


@dataclass(frozen=True)
class Fused:
    """A matrix of a family's own files that contains several of ours, with their rows (outputs) concatenated.

    name: in the files; ours: names of its parts; both as in `layers.0.<name>`. is_grouped: the rows are ordered by
    key-value head, not by part: for each the query heads that share it, then its key and its value.
    """

    name: str
    ours: tuple[str, ...]
    is_grouped: bool = False


@dataclass(frozen=True)
class WeightNames:
    """Weight names in a family's own files.

    body: the module that contains the layers in `architecture`. renamed: our name -> theirs where it differs from
    LLaMA's files; names of weights of layers are relative to `layers.0.`.
    """

    body: str = "model"
    renamed: Mapping[str, str] = field(default_factory=dict)
    fused: tuple[Fused, ...] = ()

    def of(self, ours: str) -> str:
        return self.renamed.get(ours, ours)


@dataclass(frozen=True)
class Family:
    """A kind of decoder.

    name: its model_type. architecture: transformers' class; other_architectures: its names in other folders.
    llava_architecture, llava_model_type: names in LLaVA's own code, empty if it has no class for the family. stand_in:
    name of a family with the same computation, for code that has no class for this one but can run it by our weight
    names; without a class and a stand-in, the official layout refuses the family. remote_code: the classes of its
    configuration and model, if its folders contain them because transformers has none. weights: names in its own files.
    defaults: transformers' values for absent keys, in addition to DEFAULTS. read_options: takes the values of
    config.json with defaults and returns the fields of LanguageConfig that are not SHARED or differ; write_options: the
    reverse. keys: our name -> theirs for common keys with another name, None for keys that do not exist. activations:
    values of hidden_act -> LanguageConfig.activation.
    template: chat format of a model that does not state one. *_token_id: written to config.json if not known otherwise.
    lora_targets: patterns of the layers that get an adapter by default. fixed_keys: allowed values of keys that
    exclude other values; inert_keys: keys that change nothing here. aliases: keys with our names that transformers'
    class accepts in addition to those of `keys`.
    """

    name: str
    title: str
    architecture: str
    defaults: Mapping[str, Any]
    read_options: Callable[[Mapping[str, Any]], dict[str, Any]]
    write_options: Callable[[LanguageConfig], dict[str, Any]]
    template: str
    llava_architecture: str = ""
    llava_model_type: str = ""
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2
    pad_token_id: int | None = None
    keys: Mapping[str, str | None] = field(default_factory=dict)
    activations: Mapping[str, str] = field(default_factory=lambda: {"silu": "silu", "swish": "silu"})
    weights: WeightNames = WeightNames()
    stand_in: str | None = None
    other_architectures: tuple[str, ...] = ()
    remote_code: tuple[str, str] | None = None
    lora_targets: tuple[str, ...] = (ATTENTION_PROJECTIONS, MLP_PROJECTIONS)
    fixed_keys: Mapping[str, tuple] = field(default_factory=dict)
    inert_keys: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def rules(self) -> KeyRules:
        """Return how the keys of a config.json are treated."""
        theirs = {self.keys.get(name, name) for name in (*SHARED, *DEFAULTS, *self.defaults)} - {None}
        used = theirs | {"rope_parameters", "layer_types", *self.aliases}
        return GENERIC | KeyRules(frozenset(used), frozenset(self.inert_keys), self.fixed_keys)

    @property
    def _kinds(self) -> dict[str, Kind]:
        """Return the valid values of the keys of a config.json."""
        sizes = {self.keys.get(name, name): LANGUAGE[name] for name in SHARED}
        sizes.pop(None, None)
        sizes |= {name: LANGUAGE[name] for name in self.aliases}
        return {**GENERIC_KINDS, **sizes, **FLAG_KINDS, self.keys.get("hidden_act", "hidden_act"): TEXT}

    def read(
        self, stated: Mapping[str, Any], where: str = "config.json", beside: KeyRules | None = None
    ) -> LanguageConfig:
        """Return the configuration of a decoder from transformers' config.json.

        where: the file and the object in it, for messages; beside: rules for keys that are read elsewhere. Raises
        ValueError for unknown keys and unsupported values.
        """
        check_keys(stated, self.rules if beside is None else self.rules | beside, where)
        check_values(stated, self._kinds, where)
        self._check_aliases(stated, where)
        named = {ours: stated[theirs] for ours, theirs in self.keys.items() if theirs in stated}
        values = {**DEFAULTS, **self.defaults, **stated, **named}
        if values["hidden_act"] not in self.activations or values["mlp_bias"]:
            raise ValueError(
                f"hidden_act is {values['hidden_act']!r} and mlp_bias {values['mlp_bias']}: expected "
                f"{' or '.join(map(repr, self.activations))} and no biases in the feed-forward layers"
            )
        fields = {
            **{name: values[name] for name in SHARED},
            **read_rope(stated, values),
            "activation": self.activations[values["hidden_act"]],
            **self.read_options(values),
        }
        language = LanguageConfig(family=self.name, **fields)
        _check_layer_types(values.get("layer_types"), language)
        return language

    def _check_aliases(self, stated: Mapping[str, Any], where: str) -> None:
        """Raise ValueError if a key and its alias have different values."""
        for alias in self.aliases:
            theirs = self.keys[alias]
            if alias in stated and theirs in stated and stated[alias] != stated[theirs]:
                raise ValueError(f"{where}: {theirs} is {shown(stated[theirs])}, but {alias} {shown(stated[alias])}")

    def write(self, language: LanguageConfig) -> dict[str, Any]:
        """Return the decoder's keys of transformers' config.json. Raises ValueError for options they cannot express."""
        acts = [name for name, ours in self.activations.items() if ours == language.activation]
        values = {
            **{name: getattr(language, name) for name in SHARED},
            "attention_dropout": 0.0,
            "hidden_act": (acts or [*self.activations])[0],
            "initializer_range": 0.02,
            **rope_json(language.rope_scaling),
            "use_cache": True,
            **self.write_options(language),
        }
        values = {self.keys.get(name, name): value for name, value in values.items()}
        values.pop(None, None)
        if self.read(values) != language:
            raise ValueError(f"a decoder of family {self.name!r} cannot have the options of {language}")
        return values


def attention_biases(has_bias: Any) -> dict[str, bool]:
    """Return the options of a decoder with or without a bias in all four projections of attention."""
    return {"has_qkv_bias": bool(has_bias), "has_out_bias": bool(has_bias)}


def _check_layer_types(kinds: Any, language: LanguageConfig) -> None:
    """Raise ValueError if layer_types is stated and differs from the decoder's pattern of windows."""
    if kinds is None:
        return
    num_sliding = 0 if language.sliding_window is None else language.num_hidden_layers - language.num_full_layers
    expected = [FULL] * (language.num_hidden_layers - num_sliding) + [SLIDING] * num_sliding
    if kinds != expected:
        raise ValueError(
            f"layer_types has {shown(kinds)}: expected {len(expected) - num_sliding} layers of {FULL!r}, then "
            f"{num_sliding} of {SLIDING!r}"
        )
