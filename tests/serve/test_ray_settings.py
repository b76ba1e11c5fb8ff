"""Settings of a Ray cluster: those of `serve run` are those of the command line. Without Ray."""

from __future__ import annotations

import argparse
import sys
import types

import pytest

from paddlemix.cli import command_parser
from paddlemix.commands import serve
from paddlemix.constants import BUNDLED_MODEL
from paddlemix.serve.cluster.ray_settings import ELSEWHERE, RaySettings, settings_of
from paddlemix.serve.ray_app import resources_of, scale_of

# Values for the options of `paddlemix serve`, as words of its command line.
VALUES = {
    "model_path": [BUNDLED_MODEL],
    "model_base": ["base"],
    "device": ["cpu"],
    "dtype": ["bfloat16"],
    "conv_mode": ["plain"],
    "load_8bit": [],
    "served_model_name": ["a", "b"],
    "api_key": ["secret"],
    "allow_image_urls": ["example.com"],
    "allow_origins": ["https://chat.example.com"],
    "log_requests": [],
    "metrics_prefix": ["vllm"],
    "max_running": ["3"],
    "max_queue": ["4"],
    "max_model_len": ["512"],
    "cache_gb": ["0.5"],
    "max_images": ["2"],
    "max_body": ["3MB"],
    "request_timeout": ["7.5"],
    "stop_timeout": ["8"],
    "replicas": ["2"],
    "min_replicas": ["2"],
    "max_replicas": ["3"],
    "ray_address": ["10.0.0.1:6379"],
}
ALONE = {"fp16": [], "load_4bit": []}


def parsed(values):
    words = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", *value)]
    return command_parser("serve").parse(words)


def as_text(values):
    """Return the values as `serve run` passes them."""
    return {name: ",".join(value) or "true" for name, value in values.items()}


@pytest.mark.parametrize("values", [VALUES, *({name: value} for name, value in ALONE.items())])
def test_each_option_of_the_command_line_means_the_same(values, monkeypatch):
    monkeypatch.delenv("PADDLEMIX_API_KEY", raising=False)
    arguments = parsed(values)
    assert settings_of(as_text(values)) == (serve.settings_of(arguments), serve.cluster_of(arguments))


def test_no_option_is_forgotten():
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    names = {action.dest for action in parser._actions} - {"help"}
    assert names == set(VALUES) | set(ALONE) | (ELSEWHERE.keys() - {"worker", "num_workers", "num_cards"})


def test_the_key_may_come_from_a_file_or_the_environment(monkeypatch, tmp_path):
    (tmp_path / "keys").write_text("one\ntwo\n")
    monkeypatch.setenv("PADDLEMIX_API_KEY", "three")
    assert settings_of({"api_key": f"@{tmp_path}/keys"})[0].api_keys == ("one", "two", "three")
    assert settings_of({})[0].api_keys == ("three",)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"max_quue": 1}, "unknown setting max_quue: did you mean max_queue?"),
        ({"port": 1}, "port is not used here: Ray's proxies listen"),
        ({"max_queue": "many"}, "max_queue is 'many': expected int"),
        ({"load_4bit": "maybe"}, "load_4bit is 'maybe': expected true or false"),
        ({"load_4bit": "true", "load_8bit": True}, "8 bits or in 4, not both"),
        ({"min_replicas": 3, "max_replicas": 2}, "expected 1 <= min <= max"),
        ({"replicas": 0}, "num_replicas is 0: expected at least 1"),
        ({"cache_gb": "much"}, "cache_gb is 'much'"),
    ],
)
def test_a_wrong_setting_is_one_error(arguments, text):
    with pytest.raises(ValueError) as caught:
        settings_of(arguments)
    assert text in str(caught.value)


def test_replicas_are_fixed_or_between_two_numbers():
    assert scale_of(RaySettings(2), 16) == {"num_replicas": 2}
    (scale,) = scale_of(RaySettings(min_replicas=1, max_replicas=4), 16).values()
    assert scale == {"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 16}


@pytest.mark.parametrize(("kind", "name"), [("gpu", "GPU"), ("npu", "NPU")])
def test_more_replicas_than_cards_are_an_error_that_counts_both(monkeypatch, kind, name):
    found = {"CPU": 8.0, name: 1.0}
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(cluster_resources=lambda: found))
    with pytest.raises(ValueError, match=f"2 replicas need a {kind} each, and the Ray cluster has 1"):
        resources_of(kind, RaySettings(2))
    taken = resources_of(f"{kind}:0", RaySettings(min_replicas=1, max_replicas=4))
    assert taken["num_cpus"] == 1 and taken.get("num_gpus", taken.get("resources")) in (1, {"NPU": 1})
    assert resources_of("cpu", RaySettings(2))["num_cpus"] == 4


def test_without_ray_the_command_says_what_to_install(monkeypatch):
    from paddlemix.serve import ray_app

    monkeypatch.setattr(ray_app.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"Ray Serve: pip install .*cluster"):
        ray_app.serve_on_ray(*settings_of({}))
