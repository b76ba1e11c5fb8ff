"""`paddlemix bench`: its measurements, their forms, and wrong arguments."""

from __future__ import annotations

import argparse
import json

import pytest
import tiny_folder

from paddlemix.checkpoints.load import load_model
from paddlemix.commands import bench, speed
from paddlemix.commands.speed import decode_bytes, layer_weights, prefill_flops
from paddlemix.doctor.machine import num_cores, processor, vector_flags
from paddlemix.generate.engine import Engine
from paddlemix.models.config import LanguageConfig
from paddlemix.models.quantized import quantized_layers

FEW = ("--rounds", 1, "--steps", 2, "--lengths", 8, 9000, "--contexts", 12, "--batches", 1, 3)
LIMITS = {"copy": 4e9, "matrix": 2e9}


@pytest.fixture(autouse=True)
def known_limits(monkeypatch):
    """Use fixed limits of the machine, since measuring them takes longer than the tiny model."""
    monkeypatch.setattr(speed, "machine_limits", lambda dtype, num_rounds: LIMITS)


def run(*arguments) -> int:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return bench.run(parser.parse_args(list(map(str, arguments))))


def test_json_has_every_measurement_with_its_fraction_of_the_limit(capsys):
    assert run("--model-path", tiny_folder.folder("anyres"), "--device", "cpu", "--json", *FEW) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    names = [(row["what"], row["size"]) for row in found["rows"]]
    assert names == [
        ("vision", "5 tiles"),
        ("prefill", "8 tokens"),
        ("prefill", "510 tokens"),  # 9,000 do not fit into 512 with two tokens behind them
        ("prefill", "image + 50"),
        ("decode", "2 tokens after 12"),
        ("batch", "1 row of 2 tokens"),
        ("batch", "3 rows of 2 tokens"),
        ("turn 1", "first token"),
        ("turn 2", "first token"),
    ]
    assert found["device"] == "cpu" and found["dtype"] == found["weights"] == "float32" and found["context"] == 512
    assert found["peak_memory_bytes"] > 0 and found["load_seconds"] > 0
    assert found["processor"] == {"name": processor(), "cores": num_cores(), "vector_flags": vector_flags()}
    assert {choice["way"] for choice in found["row_products"]} == {"plain"}  # the weights are small
    for row in found["rows"]:
        assert row["seconds"] > 0
        if row["limit"] is not None:
            assert row["fraction"] == pytest.approx(row["cost"] / row["seconds"] / LIMITS[row["limit"]])
    assert "decode" in printed.err and "decode" not in printed.err.splitlines()[0]  # progress is printed meanwhile


def test_decoding_counts_as_many_steps_as_asked_for_and_no_prefill():
    model = load_model(tiny_folder.folder("anyres"), dtype="float32", device="cpu")
    meter = speed.Meter(model, "float32", speed.Plan((8,), (12,), (1,), num_steps=5, num_rounds=1))
    engine, sizes = Engine(model, prefix_bytes=0), []
    decoder = engine._passes.decoder
    decode = decoder.decode
    decoder.decode = lambda embeds, cache: sizes.append(cache.lengths[0]) or decode(embeds, cache)
    assert meter._steps(engine, 12) > 0
    assert sizes == [12, 13, 14, 15, 16]


def test_table_is_for_the_bundled_model_by_default_and_for_int8_weights_on_request(capsys):
    assert run("--device", "cpu", "--load-in-8bit", "--rounds", 1, "--steps", 1, "--lengths", 4, "--batches", 1) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("tiny/model") and "cpu, float32, weights in int8, context 1,024" in lines[1]
    assert lines[2].startswith(f"  {processor()}, {num_cores()} cores")
    assert "copies 4.0 GB/s" in lines[4] and "2 GFLOP/s" in lines[4]
    assert lines[5].startswith("  a row with a weight of ") and lines[5].endswith(": plain")  # only the head is float
    assert [line.split()[0] for line in lines[8:]] == [
        "vision", "prefill", "prefill", "decode", "decode", "decode", "batch", "turn", "turn"
    ]  # fmt: skip
    assert all(line.endswith(("matrix", "copy")) for line in lines[8:14])


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--rounds", 0), "rounds is 0"), (("--lengths", 0), r"lengths are \[0\]"), (("--steps", -1), "steps is -1")],
)
def test_sizes_below_one_are_refused_before_anything_is_loaded(words, message):
    with pytest.raises(ValueError, match=message):
        run("--model-path", "/nowhere", *words)


def test_costs_count_bytes_read_and_operations_of_a_step():
    model = load_model(tiny_folder.folder("anyres"), dtype="float32", device="cpu")
    config = model.config.language
    layers = sum(
        int(parameter.size)
        for name, parameter in model.language_model.named_parameters()
        if name.startswith("layers.") and parameter.ndim == 2
    )
    assert config.num_hidden_layers * layer_weights(config) == layers
    head = config.hidden_size * config.vocab_size
    cached = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 10
    assert decode_bytes(model, 10, "float32") == 4 * (layers + head + cached)
    assert prefill_flops(config, 1) == 2 * (layers + head) + config.num_hidden_layers * 4 * config.hidden_size
    # by hand: 2 heads of 4 sharing 1, width 8, intermediate width 16
    small = LanguageConfig(vocab_size=10, hidden_size=8, intermediate_size=16, num_hidden_layers=3,
                           num_attention_heads=2, num_key_value_heads=1)  # fmt: skip
    assert layer_weights(small) == 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 16


def test_quantized_weights_count_with_their_bytes():
    folder = tiny_folder.folder("anyres")
    whole = load_model(folder, dtype="float32", device="cpu")
    coded = load_model(folder, dtype="float32", device="cpu", quantization="int8")
    num_weights = sum(layer.shape[0] * layer.shape[1] for layer in quantized_layers(coded).values())
    saved = decode_bytes(whole, 10, "float32") - decode_bytes(coded, 10, "float32")
    assert 2.5 * num_weights < saved < 3 * num_weights  # one of four bytes is left, and the scales


@pytest.fixture(scope="module")
def report():
    """A report with two measurements, as `bench --json` prints it."""
    row = {"limit": None, "cost": None, "fraction": None}
    return {
        "model": "tiny",
        "device": "gpu:0",
        "tensor_parallel": 1,
        "processor": {"name": "P", "cores": 2, "vector_flags": []},
        "dtype": "float16",
        "weights": "float16",
        "context": 4096,
        "steps": 32,
        "load_seconds": 2.0,
        "limits": {"copy_bytes_per_second": 4e9, "matrix_flops_per_second": 2e9},
        "row_products": [],
        "rows": [
            {"what": "decode", "size": "after 12", "seconds": 1.0, "rate": 32.0, "unit": "tokens/s", **row},
            {"what": "turn 1", "size": "first token", "seconds": 0.5, "rate": None, "unit": "", **row},
        ],
        "peak_memory_bytes": 8_000_000,
        "versions": {"paddlemix": "1"},
    }


def written(path, report, **changes) -> str:
    path.write_text(json.dumps({**report, **changes}))
    return str(path)


def test_two_reports_are_compared_part_by_part_with_what_else_differs(report, tmp_path, capsys):
    decode, turn = report["rows"]
    rows = [{**decode, "seconds": 0.25, "rate": 64.0}, {**turn, "seconds": 1.0}, {**decode, "size": "after 600"}]
    before = written(tmp_path / "before", {key: value for key, value in report.items() if key != "tensor_parallel"})
    now = written(tmp_path / "now", report, rows=rows, tensor_parallel=2, peak_memory_bytes=5_000_000, device="npu:0")
    assert run("--compare", before, now) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["decode", "after", "12", "32.0", "64.0", "tokens/s", "2.00", "faster"]
    assert lines[3].split() == ["turn", "1", "first", "token", "500.0", "1,000.0", "ms", "0.50", "slower"]
    assert lines[4].split() == ["memory", "peak", "8.0", "5.0", "MB", "1.60", "less"]
    assert lines[1].endswith("1.00 the same") and "only measured now: decode after 600" in lines
    assert "A ratio above 1 is better now" in lines[-4]
    assert lines[-2:] == ["  device: gpu:0 before, npu:0 now", "  --tensor-parallel: 1 before, 2 now"]
    assert run("--json", "--compare", before, now) == 0
    assert [part["ratio"] for part in json.loads(capsys.readouterr().out)["parts"]] == [1.0, 2.0, 0.5, 1.6, 1.0, 1.0]


def test_a_report_is_compared_with_what_is_measured_now(tmp_path, capsys):
    words = ("--model-path", tiny_folder.folder("anyres"), "--device", "cpu", *FEW)
    assert run("--json", *words) == 0
    path = tmp_path / "before.json"
    path.write_text(capsys.readouterr().out)
    assert run("--compare", path, *words) == 0
    table, _, comparison = capsys.readouterr().out.partition("ratio\n")
    assert "of the machine's" in table and len(comparison.splitlines()) == 1 + 9 + 1 + 2 + 2  # nothing else differs


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"rows": []}, "rows is .*, expected a list of at least 1"),
        ({"rows": [{"what": "decode"}]}, "size is None, expected a string"),
        ({"load_seconds": 0}, "load_seconds is 0, expected a number above 0"),
        ({"processor": {}}, "processor is None, expected a string"),
        ({"limits": {}}, "copy_bytes_per_second is None"),
    ],
)
def test_other_files_are_no_reports(report, tmp_path, changes, text):
    with pytest.raises(ValueError, match=text):
        run("--compare", written(tmp_path / "file", report, **changes))
    (tmp_path / "file").write_text('{"bos_token_id": 1}')
    with pytest.raises(ValueError, match="has no model and no device and no processor: expected an output of `paddle"):
        run("--compare", tmp_path / "file")
    with pytest.raises(ValueError, match="has 3 files"):
        run("--compare", *[written(tmp_path / "file", report)] * 3)


def test_table_of_a_divided_model_says_so(report):
    report = {**report, "rows": report["rows"], "tensor_parallel": 4}
    lines = bench.as_text(report).splitlines()
    assert lines[1].startswith("  gpu:0 and 3 more, which share the decoder, float16")
    assert lines[3].endswith("peak memory 8 MB on each card")
