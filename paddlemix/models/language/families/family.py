"""What tells one kind of decoder from another outside the decoder: keys, defaults and names, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...config import LanguageConfig, RopeScaling

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
# transformers' defaults where families do not differ; a file leaves out what equals them.
DEFAULTS = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "rope_scaling": None,
    "hidden_act": "silu",
    "mlp_bias": False,
}
ROPE_FIELDS = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
ATTENTION_PROJECTIONS = r"language_model\.layers\.\d+\.self_attn\.[qkvo]_proj"
MLP_PROJECTIONS = r"language_model\.layers\.\d+\.mlp\.(gate|up|down)_proj"


@dataclass(frozen=True)
class Family:
    """A kind of decoder.

    name: its model_type. architecture: transformers' class. llava_architecture, llava_model_type: those of LLaVA's own
    code over it. defaults: transformers' values for absent keys, beside DEFAULTS. read_options: takes what config.json
    says, with defaults, and returns the fields of LanguageConfig that are not SHARED; write_options: the other way.
    keys: SHARED and the other common keys that are called otherwise, ours -> theirs, None for those that are not there.
    activations: values of hidden_act -> LanguageConfig.activation.
    body: what the module around the layers is called in `architecture`. names: the parts of tensors' names below it
    that are called otherwise, ours -> theirs. fused: layers in which several of ours are stored, one's rows (outputs)
    after the other's: theirs -> ours.
    template: chat format of a model that does not say its own. *_token_id: what config.json says if nothing else does.
    lora_targets: patterns of the layers that get an adapter if a user names none.
    """

    name: str
    title: str
    architecture: str
    llava_architecture: str
    llava_model_type: str
    defaults: Mapping[str, Any]
    read_options: Callable[[Mapping[str, Any]], dict[str, Any]]
    write_options: Callable[[LanguageConfig], dict[str, Any]]
    template: str
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2
    pad_token_id: int | None = None
    keys: Mapping[str, str | None] = field(default_factory=dict)
    activations: Mapping[str, str] = field(default_factory=lambda: {"silu": "silu"})
    body: str = "model"
    names: Mapping[str, str] = field(default_factory=dict)
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lora_targets: tuple[str, ...] = (ATTENTION_PROJECTIONS, MLP_PROJECTIONS)

    def read(self, stated: Mapping[str, Any]) -> LanguageConfig:
        """Read what transformers' config.json says about a decoder. Raises ValueError for what is not supported."""
        named = {ours: stated[theirs] for ours, theirs in self.keys.items() if theirs in stated}
        values = {**DEFAULTS, **self.defaults, **stated, **named}
        if values["hidden_act"] not in self.activations or values["mlp_bias"]:
            raise ValueError(
                f"hidden_act is {values['hidden_act']!r} and mlp_bias {values['mlp_bias']}: expected "
                f"{' or '.join(map(repr, self.activations))} and no biases in the feed-forward layers"
            )
        fields = {
            **{name: values[name] for name in SHARED},
            "rope_scaling": read_rope_scaling(values["rope_scaling"]),
            "activation": self.activations[values["hidden_act"]],
            **self.read_options(values),
        }
        return LanguageConfig(family=self.name, **fields)

    def write(self, language: LanguageConfig) -> dict[str, Any]:
        """Return the decoder's keys of transformers' config.json. Raises ValueError for options they cannot express."""
        acts = [name for name, ours in self.activations.items() if ours == language.activation]
        values = {
            **{name: getattr(language, name) for name in SHARED},
            "attention_dropout": 0.0,
            "hidden_act": (acts or [*self.activations])[0],
            "initializer_range": 0.02,
            "rope_scaling": rope_scaling_json(language.rope_scaling),
            "use_cache": True,
            **self.write_options(language),
        }
        values = {self.keys.get(name, name): value for name, value in values.items()}
        values.pop(None, None)
        if self.read(values) != language:
            raise ValueError(f"a decoder of family {self.name!r} cannot have the options of {language}")
        return values


def read_rope_scaling(stated: Mapping[str, Any] | None) -> RopeScaling | None:
    """Read transformers' rope_scaling, whose kind is rope_type or, in older files, type. Raises ValueError."""
    if not stated:
        return None
    kind = stated.get("rope_type", stated.get("type"))
    if kind == "default":
        return None
    fields = ("factor", *ROPE_FIELDS) if kind == "llama3" else ("factor",)
    try:
        return RopeScaling(kind, **{name: stated[name] for name in fields})
    except KeyError as error:
        raise ValueError(f"rope_scaling {dict(stated)} has no {error}") from None


def rope_scaling_json(scaling: RopeScaling | None) -> dict[str, Any] | None:
    """Return what `read_rope_scaling` reads."""
    if scaling is None:
        return None
    stated = {name: getattr(scaling, name) for name in ROPE_FIELDS if getattr(scaling, name) is not None}
    return {"rope_type": scaling.kind, "factor": scaling.factor, **stated}
