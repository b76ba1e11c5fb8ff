"""Scaled rotary positions as PaddleNLP's LlamaConfig keeps them: rope_scaling_type and rope_scaling_factor."""

from __future__ import annotations

from ...models.config import LanguageConfig

ROPE_KINDS = {"linear": "linear", "dynamic": "dynamic_ntk"}  # ours -> PaddleNLP's rope_scaling_type


def read_rope(raw: dict) -> dict:
    """Return rope_scaling as transformers has it, where PaddleNLP keeps its parts under keys of their own."""
    kind, beside = raw.get("rope_scaling_type"), raw.get("rope_scaling")
    kind = next((ours for ours, theirs in ROPE_KINDS.items() if theirs == kind), kind)
    if kind is None:
        return {}
    found = {"rope_type": kind, "factor": raw.get("rope_scaling_factor", 1.0)}
    stated = None if not beside else (beside.get("rope_type", beside.get("type")), beside.get("factor"))
    if stated not in (None, tuple(found.values())):
        raise ValueError(
            f"rope_scaling {beside} and rope_scaling_type with rope_scaling_factor {found} are not the same"
        )
    return {"rope_scaling": found}


def rope_json(language: LanguageConfig) -> dict:
    """Return what PaddleNLP reads of a scaling; "llama3" it reads in transformers' way."""
    scaling = language.rope_scaling
    if scaling is None or scaling.kind not in ROPE_KINDS:
        return {}
    return {"rope_scaling_type": ROPE_KINDS[scaling.kind], "rope_scaling_factor": scaling.factor}
