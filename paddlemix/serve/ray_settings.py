"""The settings of a server on a Ray cluster, also as `serve run` and its configuration files give them."""

from __future__ import annotations

import difflib
import os
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..constants import BUNDLED_MODEL
from ..ops.quantize import choose_kind
from .settings import Limits, ModelOptions, ServeSettings

# Names of `paddlemix serve`'s options whose fields are called otherwise.
FIELD_OF_OPTION = {
    "served_model_name": "names",
    "api_key": "api_keys",
    "allow_image_urls": "image_hosts",
    "log_requests": "is_logging_requests",
}
# The proxies of Ray listen, and replicas take the place of workers.
ELSEWHERE = {
    "host": "Ray's proxies listen: set http_options in the file of `serve deploy`, or `serve start --http-host`",
    "port": "Ray's proxies listen: set http_options in the file of `serve deploy`, or `serve start --http-port`",
    "num_workers": "a replica is one process: set num_replicas",
    "worker": "a replica is one process: set num_replicas",
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
    def most(self) -> int:
        """How many replicas there are at most."""
        return self.max_replicas or self.num_replicas


def settings_of(arguments: Mapping[str, Any]) -> tuple[ServeSettings, RaySettings]:
    """Return the settings that names and values describe, as in `serve run ... model_path=M num_replicas=2`.

    The names are the fields of the settings and the options of `paddlemix serve`; values may be text. Without api_key,
    $PADDLEMIX_API_KEY counts. Raises ValueError for a name or value that cannot be used.
    """
    given = _by_field(arguments)
    kind = choose_kind(given.pop("load_8bit", False), given.pop("load_4bit", False))
    given.setdefault("quantization", kind)
    given.setdefault("model_path", Path(BUNDLED_MODEL))
    given.setdefault("names", (Path(given["model_path"]).name,))
    given.setdefault("api_keys", tuple(filter(None, os.environ.get("PADDLEMIX_API_KEY", "").split())))
    parts = {kind: _part(given, kind) for kind in (ModelOptions, Limits, RaySettings, ServeSettings)}
    model = replace(ModelOptions(**parts[ModelOptions]), max_image_pixels=Limits(**parts[Limits]).max_image_pixels)
    served = ServeSettings(model=model, limits=Limits(**parts[Limits]), **parts[ServeSettings])
    return served, RaySettings(**parts[RaySettings])


def _by_field(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values by the names of fields, each with the field's type."""
    known = {"load_8bit": bool, "load_4bit": bool}
    for kind in (ModelOptions, Limits, RaySettings, ServeSettings):
        hints = typing.get_type_hints(kind)
        known.update({field.name: hints[field.name] for field in fields(kind)})
    del known["model"], known["limits"]
    given = {}
    for written, value in arguments.items():
        name = written.replace("-", "_")
        name = FIELD_OF_OPTION.get(name, name)
        if name in ELSEWHERE:
            raise ValueError(f"{written} is not used here: {ELSEWHERE[name]}")
        if name not in known:
            near = difflib.get_close_matches(name, known.keys() - ELSEWHERE, n=1)
            raise ValueError(f"unknown setting {written}" + (f": did you mean {near[0]}?" if near else ""))
        given[name] = _value(written, value, known[name])
    return given


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
