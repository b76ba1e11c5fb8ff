"""The simulated device itself: it computes, counts copies and memory, and is strict on request."""

from __future__ import annotations

import json

PROBE = """
import json, os, paddle
paddle.set_device("npu:1")
x = paddle.ones([1024, 256])
product = paddle.matmul(x.astype("bfloat16"), x.astype("bfloat16").t())
try:
    top = paddle.topk(product, 2)[0].dtype
except (RuntimeError, NotImplementedError) as error:
    top = "refused"
print(json.dumps([paddle.device.get_all_custom_device_type(), str(x.place), str(product.dtype), str(top)]))
"""
KNOBS = {"FLAGS_use_stride_kernel": "0"}


def test_cards_compute_in_bfloat16_and_count_copies(npu_sim):
    done = npu_sim.run(["-c", PROBE], num_cards=2, environment=KNOBS)
    kinds, place, dtype, top = json.loads(done.output)
    assert (kinds, place, dtype, top) == (["npu"], "Place(npu:1)", "paddle.bfloat16", "paddle.bfloat16")
    (statistics,) = done.statistics
    assert statistics.copies["d2h"] > 0 and statistics.peak_megabytes > 1024 * 256 * 4 / 1e6


def test_strict_mode_refuses_operations_that_the_real_backend_lacks_in_that_dtype(npu_sim):
    done = npu_sim.run(["-c", PROBE], num_cards=2, is_strict=True, environment=KNOBS)
    assert json.loads(done.output)[2:] == ["paddle.bfloat16", "refused"]


def test_statistics_of_several_processes_and_their_collectives_are_read():
    import simulator

    words = (
        "[sim_npu] h2d 4 (0.5 MB)  d2h 5 (1.0 MB)  d2d 6 (2.0 MB)  peak 12.5 MB\n"
        "[sim_npu] xccl all_reduce 3 (0.1 MB)\n"
        "something else\n"
        "[sim_npu] h2d 1 (0.0 MB)  d2h 0 (0.0 MB)  d2d 0 (0.0 MB)  peak 1.0 MB\n"
        "[sim_npu] xccl all_reduce 4 (0.1 MB)\n"
    )
    statistics, collectives = simulator.read_statistics(words)
    assert [one.peak_megabytes for one in statistics] == [12.5, 1.0]
    assert statistics[0].copies == {"h2d": 4, "d2h": 5, "d2d": 6} and statistics[0].megabytes["d2d"] == 2.0
    assert collectives == {"all_reduce": 7}
