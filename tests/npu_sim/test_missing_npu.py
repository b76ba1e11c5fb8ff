"""Errors when the simulated device cannot be used, and the device that is chosen when none is named."""

from __future__ import annotations

import subprocess

import paddle
import pytest
import tiny_folder

TYPED = "What is this?\n\n"
SET = "paddlemix: set for npu: FLAGS_npu_storage_format=0 "


def chat(npu_sim, *options, **environment):
    """Run `paddlemix chat` for one question and return the finished process."""
    words = ["-m", "paddlemix.cli", "chat", "--model-path", tiny_folder.folder(), "--temperature", "0"]
    return npu_sim.run([*words, "--max-new-tokens", "4", *options], environment=environment, typed=TYPED)


def errors_of(done) -> list[str]:
    assert done.returncode == 1 and done.output == "", done.text
    return [line.removeprefix("error: ") for line in done.errors.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("options", [(), ("--device", "npu:0")], ids=["no device", "npu:0"])
def test_npu_is_used_by_number_and_by_default(npu_sim, options):
    done = chat(npu_sim, *options)
    assert done.returncode == 0 and done.errors.count(SET) == 1
    assert done.statistics[0].copies["h2d"] > 100


def test_cpu_is_used_when_it_is_named(npu_sim):
    done = chat(npu_sim, "--device", "cpu")
    assert done.returncode == 0 and SET not in done.errors
    assert all(one.copies["h2d"] < 10 for one in done.statistics)


def test_error_for_a_missing_card_lists_the_cards_that_exist(npu_sim):
    (message,) = errors_of(chat(npu_sim, "--device", "npu:3", SIM_NPU_COUNT="2"))
    assert message == "device 'npu:3' is not there: this machine has npu:0, npu:1; numbers start at 0"


def test_launched_process_without_a_card_is_an_error(npu_sim):
    done = chat(npu_sim, "--device", "npu", FLAGS_selected_npus="1")
    if paddle.__version__.startswith("3.0."):  # ends inside `import paddle`
        assert done.returncode != 0 and "npu number on your machine is 1" in done.errors
        return
    (message,) = errors_of(done)
    assert "a card that does not exist (FLAGS_selected_npus=1)" in message and "--devices" in message


def test_plugin_without_a_card_is_an_error_if_npu_is_requested(npu_sim):
    (message,) = errors_of(chat(npu_sim, "--device", "npu", SIM_NPU_COUNT="0"))
    assert "device 'npu' is not there: this machine has cpu" in message and "npu-smi info" in message


def test_plugin_without_a_card_falls_back_to_the_cpu_with_a_notice(npu_sim):
    done = chat(npu_sim, SIM_NPU_COUNT="0")
    assert done.returncode == 0 and "ASSISTANT: " in done.output
    assert "using the cpu, since there is no npu: its plugin is loaded but finds no card" in done.errors


def test_plugin_without_its_libraries_is_a_one_line_error_with_the_fix(npu_sim, tmp_path):
    (tmp_path / "lost").mkdir()
    (tmp_path / "cann.cc").write_text("int acl() { return 0; }")
    (tmp_path / "plugin.cc").write_text("int acl(); int InitPlugin() { return acl(); }")
    for words in ("cann.cc -o lost/libascendcl.so", "plugin.cc -o libpaddle-custom-npu.so -L lost -lascendcl"):
        subprocess.run([npu_sim.compiler(), "-shared", "-fPIC", *words.split()], cwd=tmp_path, check=True)
    (message,) = errors_of(chat(npu_sim, "--device", "npu", CUSTOM_DEVICE_ROOT=str(tmp_path)))
    assert "libascendcl.so: cannot open shared object file" in message and "set_env.sh" in message
