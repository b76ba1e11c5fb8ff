"""Rotary positions in config.json: rope_theta and rope_scaling of transformers 4, rope_parameters of version 5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....foreign_json import KeyRules, check_keys, is_equal, shown
from ...config import ROPE_KINDS, RopeScaling
from .generic_keys import written_since

LLAMA3_FIELDS = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
LONGROPE_FIELDS = ("short_factor", "long_factor")
OLD_KINDS = {"su": "longrope"}  # in Phi-3's first files
OF_EVERY_KIND = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
# Further keys of each kind; "default" scales nothing.
OF_KIND = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", *LLAMA3_FIELDS),
    "longrope": ("factor", "original_max_position_embeddings", *LONGROPE_FIELDS),
}
# Values of another kind's keys that change nothing.
SILENT = {
    "factor": (1.0, None),
    "attention_factor": (None,),
    **dict.fromkeys(("low_freq_factor", "high_freq_factor", "short_factor", "long_factor"), (None,)),
}


def read_rope(stated: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return rope_theta and rope_scaling as fields of LanguageConfig.

    stated: the keys of the file; values: the same with the family's defaults. As in transformers 5, a rope_scaling that
    is not empty replaces rope_parameters. Raises ValueError for unsupported values, and if the older and the newer key
    contradict each other.
    """
    where, found = _stated_rope(stated)
    theta = _agreed("rope_theta", where, found, stated, values)
    factor = _agreed("partial_rotary_factor", where, found, stated, values)
    if factor not in (None, 1.0):
        raise ValueError(
            f"partial_rotary_factor is {factor}, expected 1.0: decoders that rotate only a part of each head "
            "(Phi-4-mini) are not supported"
        )
    return {"rope_theta": theta, "rope_scaling": _read_scaling(where, found, values)}


def _stated_rope(stated: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the name and the object of the key that applies; an empty object if there is none."""
    objects = {}
    for key in ("rope_scaling", "rope_parameters"):
        value = stated.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise ValueError(f"{key} is {shown(value)}, expected an object or null")
        objects[key] = _of_all_layers(key, value or {}, stated.get("layer_types"))
    old, new = objects["rope_scaling"], objects["rope_parameters"]
    common = {key: (old[key], new[key]) for key in old.keys() & new.keys()}
    different = [f"{key} ({shown(one)} and {shown(other)})" for key, (one, other) in common.items() if one != other]
    if different:
        raise ValueError(f"rope_scaling and rope_parameters contradict each other: {', '.join(sorted(different))}")
    return ("rope_scaling", old) if old else ("rope_parameters", new)


def _of_all_layers(key: str, value: Mapping[str, Any], layer_types: Any) -> Mapping[str, Any]:
    """Return an object that applies to all layers, from one for all or from equal ones for each type of layers.

    Raises ValueError if the types of layers that the decoder has differ.
    """
    nested = {name: part for name, part in value.items() if isinstance(part, Mapping)}
    if not nested:
        return value
    kinds = set(layer_types) if isinstance(layer_types, list) else set(nested)
    rest = sorted(name for name in value if name not in nested and (value[name] is not None or name in kinds))
    if rest:
        raise ValueError(f"{key} has an object for each type of layers, and also {', '.join(rest)}")
    parts = [part for name, part in nested.items() if name in kinds]
    if not parts or any(part != parts[0] for part in parts):
        raise ValueError(
            f"{key} differs from one type of layers to another ({', '.join(nested)}): expected the same for all"
        )
    return parts[0]


def _agreed(name: str, where: str, found: Mapping, stated: Mapping, values: Mapping) -> Any:
    """Return a number that is stated in the object or outside of it. Raises ValueError if both state it and differ."""
    inside, beside = found.get(name), stated.get(name)
    if inside is None:
        return values[name]
    if beside is not None and not is_equal(inside, beside):
        raise ValueError(f"{name} is {shown(beside)}, but {where} says {shown(inside)}: remove one of them")
    return inside


def _read_scaling(where: str, found: Mapping[str, Any], values: Mapping[str, Any]) -> RopeScaling | None:
    """Return how frequencies are scaled, or None if they are not."""
    kind = _kind(where, found)
    if kind not in OF_KIND:
        raise ValueError(f"{where} of kind {kind!r} is not supported: expected one of {', '.join(ROPE_KINDS)}")
    used = (*OF_EVERY_KIND, *OF_KIND[kind])
    fixed = {key: accepted for key, accepted in SILENT.items() if key not in used}
    inert = frozenset(["original_max_position_embeddings"])  # transformers 5 keeps it for all kinds
    check_keys(found, KeyRules(frozenset(used), inert, fixed), f"{where} of kind {kind!r}")
    if kind == "default":
        return None
    fields = {key: found.get(key) for key in OF_KIND[kind]}
    if kind in ("llama3", "longrope"):
        fields["original_max_position_embeddings"] = _original_length(fields, values)
    if kind == "longrope":
        _check_original(where, found, values)
        fields["factor"] = _longrope_factor(where, fields, values)
    absent = [key for key in OF_KIND[kind] if fields[key] is None]
    if absent:
        raise ValueError(f"{where} of kind {kind!r} has no {', '.join(absent)}")
    return RopeScaling(kind, **fields)


def _kind(where: str, found: Mapping[str, Any]) -> str:
    """Return rope_type or, in older files, type. In transformers 5 an object without one means "default"."""
    kinds = {OLD_KINDS.get(kind, kind) for key in ("rope_type", "type") if (kind := found.get(key)) is not None}
    if len(kinds) > 1:
        raise ValueError(f"{where} has rope_type {found['rope_type']!r} and type {found['type']!r}: expected one kind")
    if kinds:
        return kinds.pop()
    if found and where == "rope_scaling":
        raise ValueError(f"rope_scaling {shown(dict(found))} has no rope_type")
    return "default"


def _original_length(fields: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    """Return the original length: the one outside of the object, as in Phi-3, else inside, else the whole length."""
    lengths = (values["original_max_position_embeddings"], fields["original_max_position_embeddings"])
    return next((length for length in lengths if length is not None), values["max_position_embeddings"])


def _check_original(where: str, found: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Raise ValueError for an original length in rope_scaling alone, which transformers 4 ignores."""
    inside, whole = found.get("original_max_position_embeddings"), values["max_position_embeddings"]
    is_alone = where == "rope_scaling" and values["original_max_position_embeddings"] is None
    if is_alone and not written_since(values, 5) and inside not in (None, whole):
        raise ValueError(
            f"rope_scaling of kind 'longrope' has original_max_position_embeddings {inside} in it, which transformers "
            "4 ignores and 5 reads: state it outside of rope_scaling"
        )


def _longrope_factor(where: str, fields: Mapping[str, Any], values: Mapping[str, Any]) -> float:
    """Return the ratio of the whole length to the original one, which a stated factor must equal.

    Raises ValueError otherwise: transformers 4 uses the lengths and 5 the factor.
    """
    original = fields["original_max_position_embeddings"]
    if not isinstance(original, int) or isinstance(original, bool) or original < 2:
        raise ValueError(f"{where} has original_max_position_embeddings {original!r}, expected a length")
    stated, ratio = fields["factor"], values["max_position_embeddings"] / original
    if values["original_max_position_embeddings"] is None and stated is not None:
        return stated
    if stated is not None and not is_equal(stated, ratio):
        raise ValueError(
            f"{where} has factor {shown(stated)}, but max_position_embeddings is {ratio:g} times "
            f"original_max_position_embeddings {original}: expected the same"
        )
    return ratio


def rope_json(scaling: RopeScaling | None) -> dict[str, Any]:
    """Return rope_scaling in the form that transformers 4 and 5 read."""
    if scaling is None:
        return {"rope_scaling": None}
    if scaling.kind == "longrope":  # transformers' Phi3Config accepts exactly these three keys
        factors = {name: list(getattr(scaling, name)) for name in LONGROPE_FIELDS}
        original = scaling.original_max_position_embeddings
        return {"rope_scaling": {"type": "longrope", **factors}, "original_max_position_embeddings": original}
    stated = {name: getattr(scaling, name) for name in LLAMA3_FIELDS if getattr(scaling, name) is not None}
    return {"rope_scaling": {"rope_type": scaling.kind, "factor": scaling.factor, **stated}}
