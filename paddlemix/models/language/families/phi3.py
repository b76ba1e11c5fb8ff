"""Phi-3-mini and similar models: LLaMA's layout with fused matrices, a window, and "longrope" in the 128k model."""

from __future__ import annotations

from .family import GATE, KEY, QUERY, UP, VALUE, Family, Fused, WeightNames


def _read_options(values) -> dict:
    for key in ("rope_scaling", "rope_parameters"):
        stated = values.get(key) or {}
        kinds = {stated.get("type"), stated.get("rope_type")} - {None}
        if not kinds <= {"longrope", "su", "default"}:
            raise ValueError(
                f"{key} of kind {kinds.pop()!r} is not supported for phi3: expected 'longrope', 'su' or 'default'"
            )
    return {"sliding_window": values["sliding_window"]}


def _write_options(language) -> dict:
    scaling = language.rope_scaling
    original = scaling.original_max_position_embeddings if scaling else language.max_position_embeddings
    return {"sliding_window": language.sliding_window, "original_max_position_embeddings": original}


PHI3 = Family(
    name="phi3",
    title="Phi-3",
    architecture="Phi3ForCausalLM",
    defaults={
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "sliding_window": None,
    },
    read_options=_read_options,
    write_options=_write_options,
    template="phi_3",
    eos_token_id=32000,
    pad_token_id=32000,
    weights=WeightNames(
        fused=(Fused("self_attn.qkv_proj", (QUERY, KEY, VALUE)), Fused("mlp.gate_up_proj", (GATE, UP))),
    ),
    stand_in="llama",
)
