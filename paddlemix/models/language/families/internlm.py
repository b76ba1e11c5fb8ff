"""InternLM 1: LLaMA's layout with biases in all four projections of attention."""

from __future__ import annotations

from ....foreign_json import KeyRules, check_keys
from .family import Family, attention_biases

ORIGIN, DYNAMIC = "origin", "dynamic"


def _read_options(values) -> dict:
    """Return the options; `rotary` has the base and the kind of positions. Raises ValueError for an unknown kind."""
    rotary = values["rotary"] or {}
    check_keys(rotary, KeyRules(frozenset(["base", "type", "scaling_factor"])), "rotary")
    kind = rotary.get("type", ORIGIN)
    if kind not in (ORIGIN, DYNAMIC):
        raise ValueError(f"rotary positions of type {kind!r}, expected {ORIGIN!r} or {DYNAMIC!r}")
    options = attention_biases(values["bias"])
    if "base" in rotary:
        options["rope_theta"] = float(rotary["base"])
    if kind == DYNAMIC:
        options["rope_scaling"] = {"kind": DYNAMIC, "factor": float(rotary.get("scaling_factor", 1.0))}
    return options


def _write_options(language) -> dict:
    scaling = language.rope_scaling
    rotary = {"base": language.rope_theta, "type": ORIGIN}
    if scaling is not None:
        rotary |= {"type": scaling.kind, "scaling_factor": scaling.factor}
    return {"bias": language.has_qkv_bias, "rotary": rotary, "rope_scaling": None}


INTERNLM = Family(
    name="internlm",
    title="InternLM",
    architecture="InternLMForCausalLM",
    defaults={"vocab_size": 103168, "bias": True, "rotary": None},
    read_options=_read_options,
    write_options=_write_options,
    template="internlm_chat",
    pad_token_id=2,
    stand_in="llama",
    remote_code=("configuration_internlm.InternLMConfig", "modeling_internlm.InternLMForCausalLM"),
)
