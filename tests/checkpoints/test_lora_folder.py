"""Adapter folders in PaddleMIX's format are merged as by NumPy, or refused with the reason."""

from __future__ import annotations

import json
import math
import os
import shlex

import numpy as np
import paddle
import pytest
import reference_models as tiny
import sentencepiece
from safetensors.numpy import save_file

from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.inspection import inspect
from paddlemix.checkpoints.layouts.paddlemix_lora import read_adapter
from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.merge import merge
from paddlemix.checkpoints.processor import LlavaProcessor
from paddlemix.checkpoints.save import save_model
from paddlemix.checkpoints.source import open_source
from paddlemix.checkpoints.verify import compare_tensors
from paddlemix.cli import command_parser
from paddlemix.commands.merge import run
from paddlemix.tensor_files.stored import CheckpointError

RANK, ALPHA = 4, 10
WEIGHTS, CONFIG = "lora_model_state.pdparams", "lora_config.json"
TARGETS = {  # PaddleMIX's name of a layer: (our name, its width in, its width out)
    "llama.layers.0.self_attn.q_proj": ("language_model.layers.0.self_attn.q_proj", 48, 48),
    "llama.layers.2.self_attn.v_proj": ("language_model.layers.2.self_attn.v_proj", 48, 16),
    "llama.layers.1.mlp.down_proj": ("language_model.layers.1.mlp.down_proj", 80, 48),
}
WHOLE = {  # PaddleMIX's name of a tensor that trained whole: (our name, its shape)
    "llama.mm_projector.0.weight": ("projector.0.weight", (32, 48)),
    "llama.mm_projector.2.bias": ("projector.2.bias", (48,)),
    "llama.image_newline": ("image_newline", (48,)),
}


def adapter_state(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    state = {}
    for name, (_, num_in, num_out) in TARGETS.items():
        state[f"{name}.lora_A"] = rng.standard_normal((num_in, RANK)).astype(np.float32)
        state[f"{name}.lora_B"] = rng.standard_normal((RANK, num_out)).astype(np.float32)
    return state | {name: rng.standard_normal(shape).astype(np.float32) for name, (_, shape) in WHOLE.items()}


def write_adapter(folder, state: dict, base=None, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    values = {"r": RANK, "lora_alpha": ALPHA, "rslora": False, "merge_weights": False, "dtype": "float32"}
    values |= {"base_model_name_or_path": None if base is None else str(base), **changes}
    (folder / CONFIG).write_text(json.dumps(values))
    if state:
        paddle.save({name: paddle.to_tensor(value) for name, value in state.items()}, str(folder / WEIGHTS))
    return folder


def values_of(model) -> dict[str, np.ndarray]:
    return {name: parameter.numpy().copy() for name, parameter in model.named_parameters()}


def restated(before: dict[str, np.ndarray], state: dict[str, np.ndarray], scaling: float) -> dict[str, np.ndarray]:
    """Return W + A B * scaling in float64, and the tensors that the adapter replaces."""
    after = dict(before)
    for theirs, (ours, *_) in TARGETS.items():
        delta = state[f"{theirs}.lora_A"].astype(np.float64) @ state[f"{theirs}.lora_B"]
        after[f"{ours}.weight"] = before[f"{ours}.weight"] + delta * scaling
    return after | {ours: state[theirs] for theirs, (ours, _) in WHOLE.items()}


def merged(base, folder):
    """Return the model of an adapter over a base's folder."""
    return load_model(folder, base=base, device="cpu")


@pytest.fixture
def base(v1_6):
    """A model folder of transformers."""
    return v1_6.folder


@pytest.mark.parametrize(("is_rank_stabilized", "scaling"), [(False, ALPHA / RANK), (True, ALPHA / math.sqrt(RANK))])
def test_merging_adds_the_product_and_replaces_trained_tensors(base, tmp_path, is_rank_stabilized, scaling):
    state, before = adapter_state(), values_of(load_model(base, device="cpu"))
    model = merged(base, write_adapter(tmp_path, state, rslora=is_rank_stabilized))
    expected, after = restated(before, state, scaling), values_of(model)
    for name, values in after.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)
    changed = {name for name, values in after.items() if not np.array_equal(values, before[name])}
    assert changed == {f"{ours}.weight" for ours, *_ in TARGETS.values()} | {ours for ours, _ in WHOLE.values()}


def test_merged_model_gives_the_logits_of_transformers_with_the_same_change(v1_6, base, tmp_path):
    state = adapter_state()
    ours = merged(base, write_adapter(tmp_path, state))
    model = tiny.hf_model(True, vision={"num_attention_heads": 1})
    for name in ("0.self_attn.q_proj", "2.self_attn.v_proj", "1.mlp.down_proj"):
        factors = (state[f"llama.layers.{name}.lora_A"], state[f"llama.layers.{name}.lora_B"])
        parameter = model.get_parameter(f"model.language_model.layers.{name}.weight")
        parameter.data += parameter.new_tensor((factors[0] @ factors[1] * (ALPHA / RANK)).T)
    projector, newline = model.model.multi_modal_projector, model.model.image_newline
    for parameter, name in (
        (projector.linear_1.weight, "llama.mm_projector.0.weight"),
        (projector.linear_2.bias, "llama.mm_projector.2.bias"),
        (newline, "llama.image_newline"),
    ):
        parameter.data = parameter.new_tensor(state[name].T)
    theirs = tiny.hf_logits(model, v1_6.batch, True)
    with paddle.no_grad():
        np.testing.assert_allclose(ours(v1_6.batch).numpy(), theirs, atol=1e-3)


@pytest.mark.parametrize("kind", ["absolute", "beside", "relative-to-the-working-folder"])
def test_adapter_folder_loads_with_the_base_that_it_names(v1_6, base, tmp_path, monkeypatch, kind):
    named = v1_6.folder
    if kind == "beside":
        named = os.path.relpath(v1_6.folder, tmp_path / "adapter")
    elif kind == "relative-to-the-working-folder":
        monkeypatch.chdir(v1_6.folder.parent)
        named = v1_6.folder.name
    folder = write_adapter(tmp_path / "adapter", adapter_state(), named)
    expected = values_of(merged(base, write_adapter(tmp_path / "same", adapter_state())))
    for name, values in values_of(load_model(folder, device="cpu")).items():
        np.testing.assert_array_equal(values, expected[name])


@pytest.mark.parametrize(
    ("named", "text"),
    [
        (None, r"does not name its base model \(base_model_name_or_path\)"),
        ("gone/away", "base model gone/away, which does not exist"),
        (".", r"base model \., which does not exist"),
    ],
)
def test_adapter_whose_base_cannot_be_found_is_refused(tmp_path, monkeypatch, named, text):
    folder = write_adapter(tmp_path, adapter_state(), named)
    monkeypatch.chdir(folder)
    with pytest.raises(CheckpointError, match=text):
        load_model(folder, device="cpu")


def without(*ends: str) -> dict[str, np.ndarray]:
    return {name: value for name, value in adapter_state().items() if not name.endswith(ends)}


def replaced(**shapes) -> dict[str, np.ndarray]:
    """Return the state with another shape for the factors of q_proj."""
    factors = {f"llama.layers.0.self_attn.q_proj.{name}": np.zeros(shape, "f4") for name, shape in shapes.items()}
    return {**adapter_state(), **factors}


BAD_STATES = {
    "no-lora-B": (without("q_proj.lora_B"), r"only one of lora_A and lora_B .*layers\.0\.self_attn\.q_proj"),
    "no-lora-A": (without("down_proj.lora_A"), r"only one of lora_A and lora_B .*layers\.1\.mlp\.down_proj"),
    "no-factors": (without("lora_A", "lora_B"), "holds no lora_A and lora_B at all"),
    "unknown-name": (
        {**adapter_state(), "qwen.layers.0.q.lora_A": np.zeros((2, 2), "f4")},
        r"unrecognized tensors: qwen\.layers\.0",
    ),
    "other-width": (
        replaced(lora_A=(64, RANK), lora_B=(RANK, 64)),
        r"trained on another model.*q_proj\.weight \[64, 64\]",
    ),
    "other-rank": (replaced(lora_A=(48, 8), lora_B=(8, 48)), r"q_proj \(\[48, 8\] and \[8, 48\], expected rank 4\)"),
    "ranks-differ": (replaced(lora_A=(48, RANK), lora_B=(8, 48)), "expected rank 4"),
    "vectors": (replaced(lora_A=(48,), lora_B=(48,)), "expected rank 4"),
    "projector-of-another-model": (
        {**adapter_state(), "llama.mm_projector.0.weight": np.zeros((64, 48), "f4")},
        r"trained on another model.*projector\.0\.weight \[64, 48\]",
    ),
    "layer-that-is-not-there": (
        {**adapter_state(), "llama.layers.9.mlp.up_proj.lora_A": np.zeros((48, RANK), "f4")}
        | {"llama.layers.9.mlp.up_proj.lora_B": np.zeros((RANK, 80), "f4")},
        r"trained on another model.*layers\.9\.mlp\.up_proj",
    ),
}


@pytest.mark.parametrize(("state", "text"), BAD_STATES.values(), ids=BAD_STATES)
def test_adapter_that_does_not_fit_is_refused(base, tmp_path, state, text):
    with pytest.raises(CheckpointError, match=text):
        merged(base, write_adapter(tmp_path, state))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"r": 0}, "has r 0, expected a number of at least 1"),
        ({"r": None}, "has r None"),
        ({"r": "4"}, "has r '4'"),
        ({"lora_alpha": None}, "needs 'lora_alpha' as a number"),
        ({"pissa": True}, "pissa is set, which cannot be merged"),
        ({"loraga": True}, "loraga is set, which cannot be merged"),
        ({"use_mora": True}, "use_mora is set, which cannot be merged"),
        ({"lora_use_mixer": True}, "lora_use_mixer is set, which cannot be merged"),
        ({"do_qat": True}, "do_qat is set, which cannot be merged"),
        ({"enable_lora_list": [True, False]}, "enable_lora_list is set, which cannot be merged"),
        ({"lora_alpha": float("nan")}, "needs 'lora_alpha' as a number above 0"),
        ({"lora_alpha": -8}, "needs 'lora_alpha' as a number above 0"),
        ({"rslora": 2}, "rslora is 2, expected true or false"),
        ({"use_tomorrows_lora": 1}, "states use_tomorrows_lora 1, which this version does not know"),
    ],
    ids=str,
)
def test_adapter_config_that_cannot_be_merged_is_refused(base, tmp_path, changes, text):
    with pytest.raises(CheckpointError, match=text):
        merged(base, write_adapter(tmp_path, adapter_state(), **changes))


def test_every_key_of_paddlenlp_s_config_is_known(base, tmp_path):
    config = pytest.importorskip("paddlenlp.peft").LoRAConfig(r=RANK, lora_alpha=ALPHA, target_modules=["q", "v"])
    values = {**config.to_dict(), "scaling": config.scaling, "enable_lora_list": [None, None], "lora_dropout": 0.1}
    merged(base, write_adapter(tmp_path, adapter_state(), **values))


def test_unified_checkpoint_is_read_by_its_index(v1_6, base, tmp_path):
    """As paddlenlp's trainer.unified_checkpoint names them: shards of trained tensors, and their index."""
    state, names = adapter_state(), sorted(adapter_state())
    expected = values_of(merged(base, write_adapter(tmp_path / "plain", state)))
    weight_map = {}
    folder = write_adapter(tmp_path / "x", {}, v1_6.folder)
    for number in (1, 2):
        file = f"peft_model-{number:05d}-of-00002.safetensors"
        save_file({name: state[name] for name in names[number - 1 :: 2]}, folder / file, metadata={"format": "np"})
        weight_map |= dict.fromkeys(names[number - 1 :: 2], file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map, "type": "lora"}
    (folder / "peft_model.safetensors.index.json").write_text(json.dumps(index))
    for name, values in values_of(load_model(folder, device="cpu")).items():
        np.testing.assert_array_equal(values, expected[name])
    found = inspect(folder)
    assert all("no tokenizer" in one for one in found.problems) and found.trained["num_layers"] == len(TARGETS)
    paddle.save({}, str(folder / WEIGHTS))
    with pytest.raises(CheckpointError, match=f"holds an adapter as {WEIGHTS} and as peft_model"):
        load_model(folder, device="cpu")


def test_adapter_without_its_weights_is_refused(v1_6, tmp_path):
    folder = write_adapter(tmp_path, {}, v1_6.folder)
    with pytest.raises(CheckpointError, match=f"has {CONFIG} but no {WEIGHTS}"):
        load_model(folder, device="cpu")


def test_unused_newline_of_a_pad_model_is_left_out(v1_5, tmp_path):
    folder = write_adapter(tmp_path, adapter_state(), v1_5.folder)
    model = load_model(folder, device="cpu")
    assert "image_newline" not in read_adapter(folder, model.config)
    assert model.image_newline is None


@pytest.fixture
def base_folder(v1_6, base, tmp_path):
    """A complete folder of ours: weights, config, tokenizer, processor."""
    folder = tmp_path / "base"
    options = {"model_type": "bpe", "vocab_size": 60, "minloglevel": 2, "num_threads": 1}
    words = ["a picture of a red square and a blue circle", "what is in the picture? USER: ASSISTANT:"]
    save_model(load_model(base, device="cpu"), folder)
    with open(folder / "tokenizer.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(words * 3), model_writer=file, **options)
    return folder


def test_merge_writes_a_folder_that_needs_neither_input(base, base_folder, tmp_path):
    adapter, output = write_adapter(tmp_path / "adapter", adapter_state(), base_folder), tmp_path / "merged"
    merge(adapter, output, device="cpu")
    expected = values_of(merged(base, adapter))
    text = "what is in the red picture?"
    ids = LlavaProcessor.from_pretrained(base_folder).tokenizer.encode(text, is_start=True)
    base_folder.rename(tmp_path / "gone")
    adapter.rename(tmp_path / "gone-too")
    for name, values in values_of(load_model(output, device="cpu")).items():
        np.testing.assert_array_equal(values, expected[name])
    assert LlavaProcessor.from_pretrained(output).decode(ids) == text


@pytest.mark.parametrize("dtype", [None, "float32"])
@pytest.mark.parametrize("quantization", [{}, {"quantization": "int8"}], ids=["plain", "int8"])
def test_merge_and_convert_write_the_same_tensors_in_the_dtype_of_the_base(base_folder, tmp_path, dtype, quantization):
    save_model(load_model(base_folder, device="cpu"), base_folder, dtype="float16")
    adapter = write_adapter(tmp_path / "adapter", adapter_state(), base_folder, **quantization)
    assert merge(adapter, tmp_path / "merged", device="cpu", dtype=dtype).dtype == (dtype or "float16")
    text = convert(adapter, tmp_path / "converted", "paddle", dtype=dtype, checks=[compare_tensors]).text()
    merged, converted = (open_source(tmp_path / name).tensors for name in ("merged", "converted"))
    assert {one.dtype for one in (*merged.values(), *converted.values())} == {dtype or "float16"}
    for name, tensor in merged.items():
        np.testing.assert_array_equal(tensor.values, converted[name].values, err_msg=name)
    said = "merged in float32\n" if dtype else "merged in float16, the base's dtype (--dtype float32 loses no digits)"
    assert said in text and f"bit-equal to the source's, merged in {dtype or 'float16'}" in text


def test_merge_says_what_became_of_base_and_adapter_and_what_comes_next(base_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    adapter = write_adapter(tmp_path / "an adapter", adapter_state(), base_folder)
    words = ["--lora-path", str(adapter), "--output", "a model", "--device", "cpu"]
    assert run(command_parser("merge").parse(words)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == "base adapter merged next chat evaluate convert".split()
    assert lines[0].split(maxsplit=1)[1] == f"{base_folder.relative_to(tmp_path)} (unchanged)"
    assert lines[1].split(maxsplit=1)[1] == "an adapter" and all(len(line) <= 80 for line in lines[:4])
    for line in (lines[4], lines[6]):
        command = line.split("paddlemix ", 1)[1]
        arguments = command_parser(shlex.split(command)[0]).parse(shlex.split(command)[1:])
        assert "a model" in vars(arguments).values()


def test_merge_takes_another_base_than_the_adapter_names(base_folder, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", adapter_state(), "gone/away")
    merge(adapter, tmp_path / "merged", base=base_folder, device="cpu")
    assert (tmp_path / "merged" / "model.safetensors").is_file()


@pytest.mark.parametrize("kind", ["base", "adapter", "base-by-another-path"])
def test_merge_never_writes_into_an_input(base_folder, tmp_path, kind):
    adapter = write_adapter(tmp_path / "adapter", adapter_state(), base_folder)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    output = {"base": base_folder, "adapter": adapter, "base-by-another-path": adapter / ".." / "base"}[kind]
    with pytest.raises(CheckpointError, match="is also a source"):
        merge(adapter, output, device="cpu")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_merge_that_fails_writes_nothing(base_folder, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", BAD_STATES["other-width"][0], base_folder)
    with pytest.raises(CheckpointError, match="trained on another model"):
        merge(adapter, tmp_path / "merged", device="cpu")
    assert not (tmp_path / "merged").exists()


def test_merge_refuses_a_folder_that_is_no_adapter(base_folder, tmp_path):
    with pytest.raises(CheckpointError, match="is not a LoRA folder"):
        merge(base_folder, tmp_path / "merged", device="cpu")
