"""`paddlemix doctor --device npu` on the simulated device: intact, with broken kernels, and without a plugin."""

from __future__ import annotations

import json
import os

import fake_ascend
import pytest

from paddlemix.doctor.worker import KERNELS, PARTS

COMMAND = ["-m", "paddlemix.cli", "doctor", "--device", "npu", "--json"]
NAMES = ["machine", "driver", "CANN", "packages", *PARTS]


@pytest.fixture(scope="module")
def doctor(npu_sim, tmp_path_factory):
    """Return a function that runs the doctor with a fake driver and CANN; it returns exit code and checks by name."""
    folder = tmp_path_factory.mktemp("ascend")
    tools = fake_ascend.write_smi(folder / "bin", fake_ascend.table())
    cann = fake_ascend.write_cann(folder / "cann" / "latest")
    base = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "ASCEND_HOME_PATH": str(cann), "OMP_NUM_THREADS": "1"}

    def run(*words: str, **variables: str):
        done = npu_sim.run([*COMMAND, *words], environment={**base, **variables}, timeout=600)
        checks = {check["name"]: check for check in json.loads(done.output)["checks"]}
        assert list(checks) == NAMES, done.text[-3000:]
        return done.returncode, checks

    return run


def test_every_kernel_is_used_and_correct_and_training_and_chat_equal_the_cpu(doctor):
    code, checks = doctor()
    assert code == 0, {name: check["facts"] for name, check in checks.items() if check["status"] == "FAILED"}
    assert checks["driver"]["driver"] == "24.1.0" and checks["CANN"]["version"] == "8.0.0"
    assert checks["device"]["memory"]["total"] == 64 << 30
    assert {checks[name]["status"] for name in KERNELS} == {"ok"}
    kernels = ["flash_attention_npu"] * 2 + ["flash_attention_npu (pieces)", "rms_norm_npu", "fused_rope", "swiglu"]
    for dtype in ("float16", "bfloat16"):
        assert [checks[name][dtype]["path"] for name in KERNELS] == kernels
        assert checks["chat"][dtype] == checks["chat"]["on the CPU"]
    assert checks["training"]["float32"] == pytest.approx(checks["training"]["on the CPU"], rel=1e-5)
    assert checks["training"]["status"] == "ok" and len(checks["training"]["bfloat16 O2"]) == 4


def test_kernels_that_crash_or_compute_wrong_results_are_named_and_the_others_are_checked(doctor):
    code, checks = doctor("--no-trial", SIM_NPU_CRASH="fused_rope", SIM_NPU_WRONG="rms_norm_npu")
    assert code == 1
    rotary, norm = checks["rotary"], checks["rms norm"]
    assert rotary["status"] == "FAILED" and "SIGABRT: EZ9999" in rotary["facts"][0]
    assert "(in rotary float32)" in rotary["facts"][0] and "PADDLEMIX_PLAIN_OPS" in rotary["advice"][0]
    assert rotary["float16"]["path"] == "plain operations" and rotary["float16"]["forward"] < 2e-2
    assert norm["status"] == "warning" and "rms_norm_npu is not used here" in norm["facts"][0]
    assert norm["bfloat16"]["path"] == "plain operations"
    assert checks["dense"]["bfloat16"]["path"] == "flash_attention_npu"
    assert checks["swiglu"]["status"] == "ok" and checks["training"]["status"] == "skipped"


def test_report_without_a_plugin_names_the_package_to_install_and_skips_the_rest(doctor):
    code, checks = doctor(CUSTOM_DEVICE_ROOT="")
    assert code == 1
    assert checks["packages"]["status"] == "FAILED" and "paddle-custom-npu" in checks["packages"]["advice"][0]
    assert checks["paddle"]["status"] in ("ok", "warning")
    assert checks["device"]["status"] == "FAILED" and "device 'npu' is not there" in checks["device"]["facts"][0]
    assert {checks[name]["status"] for name in PARTS[2:]} == {"skipped"}
