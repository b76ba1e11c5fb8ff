"""The settings of a server on a Ray cluster, also as `serve run` and its configuration files give them."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ...constants import BUNDLED_MODEL
from ...ops.quantize import choose_kind
from ...tensor_files.shards import parse_size
from ..guards.access import all_keys, checked_origins
from ..settings import Limits, ModelOptions, ServeSettings, default_name

# Options of `paddlemix serve` whose fields are called otherwise, and how their values are read.
OPTIONS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "served_model_name": ("names", lambda value: value),
    "api_key": ("api_keys", lambda value: value),
    "allow_image_urls": ("image_hosts", lambda value: value),
    "allow_origins": ("origins", lambda value: value),
    "log_requests": ("is_logging_requests", lambda value: value),
    "max_body": ("max_body_bytes", parse_size),
    "request_timeout": ("request_seconds", lambda value: value),
    "stop_timeout": ("stop_seconds", lambda value: value),
    "cache_gb": ("cache_bytes", lambda value: float(value) * (1 << 30)),
    "replicas": ("num_replicas", lambda value: value),
    "ray_address": ("address", lambda value: value),
}
LISTEN = "Ray's proxies listen: set http_options in the file of `serve deploy`, or `serve start --http-{}`"
ONE_CARD = "a replica has one card: start `paddlemix serve --tensor-parallel N` on each machine instead"
ELSEWHERE = {
    "host": LISTEN.format("host"),
    "port": LISTEN.format("port"),
    "workers": "a replica is one process: set replicas",
    "num_workers": "a replica is one process: set replicas",
    "worker": "a replica is one process: set replicas",
    "tensor_parallel": ONE_CARD,
    "num_cards": ONE_CARD,
    "hub": "set the environment variable PADDLEMIX_HUB on the machines of the cluster",
    "revision": "download the model on each machine before, and give its folder as model_path",
    "ray": "the application runs on Ray already",
}
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")


@dataclass(frozen=True)
class RaySettings:
    """How many replicas a cluster runs, and what each takes.

    num_replicas: fixed; or with max_replicas between min_replicas and that, so that each has about
    target_ongoing_requests at a time (None: as many as run side by side). cpus: of each replica, None for an equal part
    of the cluster's, or 1 if the model is on a card. address: of a running cluster, None to start one on this machine.
    """

    num_replicas: int = 1
    min_replicas: int = 1
    max_replicas: int | None = None
    target_ongoing_requests: int | None = None
    cpus: int | None = None
    address: str | None = None

    def __post_init__(self):
        if self.num_replicas < 1:
            raise ValueError(f"num_replicas is {self.num_replicas}: expected at least 1")
        if self.max_replicas is not None and not 1 <= self.min_replicas <= self.max_replicas:
            raise ValueError(
                f"min_replicas is {self.min_replicas} and max_replicas {self.max_replicas}: expected 1 <= min <= max"
            )

    @property
    def least(self) -> int:
        """How many replicas there are at least."""
        return self.num_replicas if self.max_replicas is None else self.min_replicas

    @property
    def most(self) -> int:
        """How many replicas there are at most."""
        return self.max_replicas or self.num_replicas


def settings_of(arguments: Mapping[str, Any]) -> tuple[ServeSettings, RaySettings]:
    """Return the settings that names and values describe, as in `serve run ... model_path=M replicas=2`.

    The names are the options of `paddlemix serve`, with underscores, and the fields of the settings; values may be
    text. Raises ValueError for a name or value that cannot be used.
    """
    given = _by_field(arguments)
    kind = choose_kind(given.pop("load_8bit", False), given.pop("load_4bit", False))
    given.setdefault("quantization", kind)
    if given.pop("fp16", False):
        given["dtype"] = "float16"
    given.setdefault("model_path", Path(BUNDLED_MODEL))
    given.setdefault("names", (default_name(str(given["model_path"])),))
    given["api_keys"] = all_keys(given.get("api_keys", ()))
    given["origins"] = checked_origins(given.get("origins", ()), has_keys=bool(given["api_keys"]))
    limits = Limits(**_part(given, Limits))
    model = replace(ModelOptions(**_part(given, ModelOptions)), max_image_pixels=limits.max_image_pixels)
    served = ServeSettings(model=model, limits=limits, **_part(given, ServeSettings))
    return served, RaySettings(**_part(given, RaySettings))


def _by_field(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values by the names of fields, each with the field's type."""
    types = _field_types()
    given = {}
    for written, value in arguments.items():
        name = written.replace("-", "_")
        if name in ELSEWHERE:
            raise ValueError(f"{written} is not used here: {ELSEWHERE[name]}")
        if name in OPTIONS:
            name, read = OPTIONS[name]
            try:
                value = read(value)
            except ValueError as error:
                raise ValueError(f"{written} is {value!r}: {error}") from None
        if name not in types:
            near = difflib.get_close_matches(name, (types.keys() | OPTIONS) - ELSEWHERE.keys(), n=1)
            raise ValueError(f"unknown setting {written}" + (f": did you mean {near[0]}?" if near else ""))
        given[name] = _value(written, value, types[name])
    return given


def _field_types() -> dict[str, Any]:
    types = {"load_8bit": bool, "load_4bit": bool, "fp16": bool}
    for kind in (ModelOptions, Limits, RaySettings, ServeSettings):
        hints = typing.get_type_hints(kind)
        types.update({field.name: hints[field.name] for field in fields(kind)})
    return {name: kind for name, kind in types.items() if name not in ("model", "limits")}


def _part(given: Mapping[str, Any], kind: type) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in given.items() if name in names}


def _value(name: str, value: Any, wanted: Any) -> Any:
    """Return a value in the type of its field; text is read as that type."""
    kinds = typing.get_args(wanted) or (wanted,)
    if value is None and type(None) in kinds:
        return None
    if typing.get_origin(wanted) is tuple:
        return tuple(value.split(",")) if isinstance(value, str) else tuple(map(str, value))
    if bool in kinds:
        return _truth(name, value)
    (kind,) = [each for each in kinds if each is not type(None)]
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}: expected {kind.__name__}") from None


def _truth(name: str, value: Any) -> bool:
    text = str(value).lower()
    if text not in TRUE + FALSE:
        raise ValueError(f"{name} is {value!r}: expected true or false")
    return text in TRUE
