"""A thread computes as the thread that chose the device, and MKL takes the fast path of the processor."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path

import paddle
import pytest

from paddlemix.device import (
    AVX_512,
    device_name,
    mkl_type,
    num_threads,
    prepare_environment,
    use_device,
    use_device_in_thread,
)


def test_thread_computes_with_as_many_threads_as_the_first_one():
    (library, *_) = [*Path(paddle.__file__).parent.glob("libs/libiomp5.so"), None]
    if library is None:
        pytest.skip("this build of paddle brings no OpenMP library of its own")
    use_device("cpu")
    counts = []

    def count():
        use_device_in_thread()
        counts.append(ctypes.CDLL(str(library)).omp_get_max_threads())

    thread = threading.Thread(target=count)
    thread.start()
    thread.join()
    assert counts == [num_threads()]


def facts(vendor: str, *flags: str) -> str:
    return f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: one\nflags\t\t: fpu vme {' '.join(flags)}\n"


def test_mkl_takes_its_fast_path_on_amd_processors_and_chooses_itself_on_others():
    wide = sorted(AVX_512)
    assert mkl_type(facts("AuthenticAMD", "avx2")) == "5"
    assert mkl_type(facts("AuthenticAMD", "avx2", *wide)) == "7"
    assert mkl_type(facts("AuthenticAMD", "avx2", *wide[1:])) == "5"
    assert mkl_type(facts("GenuineIntel", "avx2", *wide)) is None
    assert mkl_type("") is None


def test_a_kind_of_processor_that_the_user_has_chosen_for_mkl_stays(monkeypatch):
    monkeypatch.setenv("MKL_DEBUG_CPU_TYPE", "5")
    assert "MKL_DEBUG_CPU_TYPE" not in prepare_environment("cpu")


@pytest.mark.parametrize(
    ("given", "name"),
    [("NPU", "npu"), ("Ascend", "npu"), ("ascend:3", "npu:3"), ("cuda", "gpu"), ("GPU:0", "gpu:0"), ("cpu", "cpu")],
)
def test_devices_have_their_names_of_other_projects_in_any_case(given, name):
    assert device_name(given) == name


@pytest.mark.parametrize("given", ["npu:x", "gpu:", "cuda:-1"])
def test_colon_without_the_number_of_a_card_is_named(given):
    with pytest.raises(ValueError, match=r"expected the number of a card after the colon, such as [gn]pu:0"):
        device_name(given)
