"""Environment variables before paddle is imported, plugins, matching versions, and errors of loading."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paddlemix import accelerators, device, device_memory
from paddlemix.accelerators import NPU_ENVIRONMENT

SHELL_FILE = Path(__file__).parents[1] / "paddlemix/examples/llava/env_npu.sh"
ONLY_NPU = NPU_ENVIRONMENT.keys() - {"FLAGS_use_stride_kernel"}  # the CPU sets that one, too
STATIC_TLS = "/lib/aarch64-linux-gnu/libgomp.so.1: cannot allocate memory in static TLS block"
NOT_OPENED = "(InvalidArgument) Fail to open library: /p/libpaddle-custom-npu.so with error: {}\n  [Hint: dso_handle]"


@pytest.fixture
def environment(monkeypatch, caplog):
    """Return this process's environment without variables for an Ascend; restored afterwards."""
    kept = dict(os.environ)
    for name in (*NPU_ENVIRONMENT, "CUSTOM_DEVICE_ROOT", "ASCEND_RT_VISIBLE_DEVICES"):
        kept.pop(name, None)
    monkeypatch.setattr(os, "environ", kept)
    monkeypatch.delitem(sys.modules, "paddle", raising=False)
    caplog.set_level(logging.WARNING, logger="paddlemix")
    return kept


@pytest.fixture
def plugin(tmp_path, environment):
    """Return a folder with a plugin for Ascend; CUSTOM_DEVICE_ROOT names it."""
    (tmp_path / "libpaddle-custom-npu.so").touch()
    environment["CUSTOM_DEVICE_ROOT"] = str(tmp_path)
    return tmp_path


@pytest.fixture
def installed(monkeypatch):
    """Return a dict of the installed distributions."""
    versions: dict[str, str] = {}

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    return versions


@pytest.mark.parametrize("name", ["npu", "npu:0", "npu:7", None])
def test_an_ascend_gets_its_variables_in_one_line(name, plugin, environment, caplog):
    chosen = device.prepare_environment(name)
    assert {key: environment[key] for key in NPU_ENVIRONMENT} == NPU_ENVIRONMENT
    assert NPU_ENVIRONMENT.items() <= chosen.items()
    assert len(caplog.messages) == 1
    assert caplog.messages[0] == "set for npu: FLAGS_npu_storage_format=0 and 6 more, as in env_npu.sh"


def test_requested_npu_gets_them_without_a_plugin_too(environment):
    assert NPU_ENVIRONMENT.items() <= device.prepare_environment("npu").items()


@pytest.mark.parametrize("name", ["cpu", "gpu", "gpu:1", "mlu", "mlu:0"])
def test_other_devices_get_none_of_them_and_no_line(name, plugin, environment, caplog):
    assert not ONLY_NPU & device.prepare_environment(name).keys()
    assert caplog.messages == []


def test_without_a_device_and_a_plugin_nothing_is_set_for_npu(environment, tmp_path):
    environment["CUSTOM_DEVICE_ROOT"] = str(tmp_path)
    assert not ONLY_NPU & device.prepare_environment(None).keys()


def test_flags_set_by_the_user_are_kept_and_reported(plugin, environment, caplog):
    environment.update(FLAGS_npu_jit_compile="1", FLAGS_use_stride_kernel="0")
    chosen = device.prepare_environment("npu")
    assert environment["FLAGS_npu_jit_compile"] == "1" and not {"FLAGS_npu_jit_compile"} & chosen.keys()
    (message,) = caplog.messages
    assert message.endswith("; as you set them: FLAGS_npu_jit_compile=1") and "FLAGS_use_stride_kernel" not in message
    assert device.prepare_environment("npu") == {} and len(caplog.messages) == 1


def test_only_the_first_of_several_processes_prints_it(plugin, environment, caplog):
    environment["PADDLE_TRAINER_ID"] = "1"
    device.prepare_environment("npu")
    assert caplog.messages == [] and environment["FLAGS_npu_storage_format"] == "0"


def test_paddle_imported_first_is_reported(plugin, environment, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "paddle", object())
    device.prepare_environment("npu")
    assert "paddle is imported already" in caplog.messages[0]


def test_on_the_cpu_an_installed_plugin_is_not_loaded(tmp_path, environment, monkeypatch):
    (tmp_path / "paddle_custom_device").mkdir()
    (tmp_path / "paddle_custom_device/libpaddle-custom-npu.so").touch()
    spec = importlib.machinery.ModuleSpec("paddle", None, origin=str(tmp_path / "paddle/__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert accelerators.has_plugin("npu") and not accelerators.has_plugin("mlu")
    assert NPU_ENVIRONMENT.items() <= device.prepare_environment(None).items()
    assert device.prepare_environment("cpu")["CUSTOM_DEVICE_ROOT"] == "" and not accelerators.has_plugin("npu")


def test_shell_file_sets_the_same_variables_and_keeps_existing_ones(environment):
    script = f"set -eu; source '{SHELL_FILE}'; env"
    plain = {"PATH": os.environ["PATH"]}
    done = subprocess.run(["bash", "-c", script], env=plain, capture_output=True, text=True, check=True)
    values = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    found = {name: value for name, value in values.items() if name.startswith(("FLAGS_", "CUSTOM_DEVICE_"))}
    assert found == NPU_ENVIRONMENT and values["PADDLE_XCCL_BACKEND"] == "npu"
    mine = {**plain, "FLAGS_npu_jit_compile": "1"}
    done = subprocess.run(["bash", "-c", script], env=mine, capture_output=True, text=True, check=True)
    assert "FLAGS_npu_jit_compile=1\n" in done.stdout


@pytest.mark.parametrize(
    ("paddle", "plugin_version", "outcome"),
    [
        ("3.0.0", "3.0.0", ""),
        ("3.0.0.dev20250527", "3.0.0.dev20250527", ""),
        ("3.3.1", "0.0.0", ""),
        ("3.0.0.dev20250527", "3.0.0.dev20250601", "install both of the same date"),
        ("3.0.0", "3.0.0.dev20250601", "install both of the same date"),
        ("3.3.1", "3.0.0", "error"),
        ("3.0.0", "2.6.1", "error"),
    ],
)
def test_plugin_and_paddle_must_be_of_one_release(paddle, plugin_version, outcome, plugin, installed, caplog):
    installed.update({"paddlepaddle": paddle, "paddle-custom-npu": plugin_version})
    if outcome == "error":
        with pytest.raises(ValueError, match=rf"paddle-custom-npu {plugin_version} does not fit paddlepaddle {paddle}"):
            device.prepare_environment("npu")
        return
    device.prepare_environment("npu")
    lines = [line for line in caplog.messages if "set for npu" not in line]
    assert len(lines) == bool(outcome) and all(outcome in line for line in lines)


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (ImportError(STATIC_TLS), ["LD_PRELOAD=/lib/aarch64-linux-gnu/libgomp.so.1`", "ARM"]),
        (
            ValueError(NOT_OPENED.format(STATIC_TLS)),
            ["LD_PRELOAD=/lib/aarch64-linux-gnu/libgomp.so.1`"],
        ),
        (
            ValueError(NOT_OPENED.format("libascendcl.so: cannot open shared object file: No such file or directory")),
            ["libascendcl.so: cannot open", "CANN", "set_env.sh"],
        ),
        (ValueError(NOT_OPENED.format("x.so: undefined symbol: _ZN3phi")), ["built for another paddle", "_ZN3phi"]),
    ],
    ids=["libgomp", "libgomp of the plugin", "no CANN", "other paddle"],
)
def test_error_of_loading_is_one_line_with_the_remedy(error, parts):
    with pytest.raises(ValueError, match=r"^[^(\n]+") as raised, accelerators.explained():
        raise error
    text = str(raised.value)
    assert "\n" not in text and all(part in text for part in parts)


def test_other_errors_are_not_changed():
    error = RuntimeError("something else")
    with pytest.raises(RuntimeError) as raised, accelerators.explained():
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    ("kind", "num_cards", "parts"),
    [
        ("npu", None, ["plugin", "paddlepaddle 3.0.0", "paddle-custom-npu 3.0.0", "CANN", "docs/en/ascend.md"]),
        ("npu", 0, ["no card", "npu-smi", "ASCEND_RT_VISIBLE_DEVICES is '9'"]),
        ("gpu", None, ["paddlepaddle-gpu"]),
        ("gpu", 0, ["nvidia-smi"]),
        ("mlu", None, ["check the name"]),
        ("mlu", 0, ["no card"]),
    ],
)
def test_error_of_a_missing_device_names_the_fix(kind, num_cards, parts, environment, installed):
    installed["paddlepaddle"] = "3.0.0"
    environment["ASCEND_RT_VISIBLE_DEVICES"] = "9"
    assert all(part in accelerators.advice_for_missing(kind, num_cards) for part in parts)


def test_memory_of_a_card_is_that_of_the_visible_one_in_npu_smi(tmp_path, environment):
    tool = tmp_path / "npu-smi"
    environment["PATH"] = f"{tmp_path}{os.pathsep}{environment['PATH']}"
    tool.write_text(
        '#!/bin/sh\n[ "$*" = "info -t usages -i 5" ] || exit 1\n'
        "echo '\tNPU ID                         : 5'\necho '\tHBM Capacity(MB)               : 65536'\n"
        "echo '\tHBM Usage Rate(%)              : 25'\necho '\tAicore Usage Rate(%)           : 90'\n"
    )
    tool.chmod(0o755)
    environment["ASCEND_RT_VISIBLE_DEVICES"] = "4,5"
    assert device_memory.memory_of("npu:1") == (64 * 1024**3, 48 * 1024**3)
    assert device_memory.memory_of("npu:0") is None


@pytest.mark.parametrize(("number", "expected"), [(None, None), ("1", None), ("2", "0")])
def test_several_processes_meet_without_the_libuv_server(number, expected, environment, monkeypatch):
    monkeypatch.delenv("PADDLE_TRAINERS_NUM", raising=False)
    if number:
        monkeypatch.setenv("PADDLE_TRAINERS_NUM", number)
    assert device.prepare_environment("cpu").get("FLAGS_tcp_store_using_libuv") == expected
