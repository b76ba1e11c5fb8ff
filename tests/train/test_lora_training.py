"""LoRA: the parameters that train, the files that are written, and merging."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
import tiny_folder
from paddle import nn
from paddlenlp.peft import LoRAModel
from tiny_training import LORA, build, differing, settings, train, weights

from paddlemix import LlavaForConditionalGeneration, LlavaProcessor, cli
from paddlemix.checkpoints.merge import merge
from paddlemix.checkpoints.output_folder import NOTE
from paddlemix.generate.sampling import SamplingParams
from paddlemix.generate.session import ChatSession
from paddlemix.tensor_files.pdparams import open_pdparams
from paddlemix.tensor_files.stored import CheckpointError

ROOT = Path(__file__).parent.parent.parent
WEIGHTS = "lora_model_state.pdparams"
GREEDY = SamplingParams(max_new_tokens=5)
# (layer, inputs, outputs) of the tiny decoder's linear layers.
LINEARS = [("self_attn.q_proj", 48, 48), ("self_attn.k_proj", 48, 24), ("self_attn.v_proj", 48, 24)]
LINEARS += [("self_attn.o_proj", 48, 48), ("mlp.gate_proj", 48, 80), ("mlp.up_proj", 48, 80), ("mlp.down_proj", 80, 48)]
PROJECTOR = {"0.weight": [32, 48], "0.bias": [48], "2.weight": [48, 48], "2.bias": [48]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_folder.write_rows(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    """A finished run at a high rate: (trainer, its output folder)."""
    folder = tmp_path_factory.mktemp("run")
    trainer = train(settings(folder, data, "anyres", learning_rate=5e-3, save_strategy="steps", save_steps=2, **LORA))
    trainer.llava.eval()
    return trainer, folder / "out"


def batch_of(trainer, indices=(1, 3)):
    return trainer.data_collator([trainer.train_dataset[index] for index in indices])["batch"]


def expected_shapes():
    """Return PaddleMIX's name -> shape of every tensor of an adapter of rank 4."""
    shapes = {f"llama.mm_projector.{name}": shape for name, shape in PROJECTOR.items()}
    shapes["llama.image_newline"] = [48]
    for number in (0, 1):
        for name, num_in, num_out in LINEARS:
            shapes[f"llama.layers.{number}.{name}.lora_A"] = [num_in, 4]
            shapes[f"llama.layers.{number}.{name}.lora_B"] = [4, num_out]
    return shapes


def test_adapters_projector_and_newline_train_and_nothing_else(run):
    trainer, _ = run
    before, after = weights(tiny_folder.load("anyres")[0]), weights(trainer.llava)
    adapters = {name for name in after if "lora_" in name}
    assert len(adapters) == 2 * 2 * len(LINEARS)
    changed = differing(before, {name: after[name] for name in before})
    assert changed == {name for name in before if name.startswith(("projector.", "image_newline"))}
    trained = {name for name, parameter in trainer.llava.named_parameters() if not parameter.stop_gradient}
    assert trained == changed | adapters
    assert all(after[name].any() for name in adapters)  # lora_B starts at zero


def test_frozen_projector_is_neither_trained_nor_saved(tmp_path, data):
    trainer = train(settings(tmp_path, data, max_steps=1, freeze_mm_mlp_adapter=True, **LORA))
    assert all("lora_" in name for name, tensor in trainer.llava.named_parameters() if not tensor.stop_gradient)
    assert all(name.endswith(("lora_A", "lora_B")) for name in open_pdparams(tmp_path / "out" / WEIGHTS))
    saved = weights(LlavaForConditionalGeneration.from_pretrained(tmp_path / "out"))
    adapted = {f"language_model.layers.{number}.{name}.weight" for number in (0, 1) for name, _, _ in LINEARS}
    assert differing(weights(tiny_folder.load("pad")[0]), saved) == adapted


@pytest.mark.parametrize("place", ["", "checkpoint-2", "checkpoint-4"])
def test_adapter_file_has_paddlemix_names_for_both_readers(place, run):
    _, output = run
    loaded = paddle.load(str(output / place / WEIGHTS), return_numpy=True)
    ours = open_pdparams(output / place / WEIGHTS)
    shapes = expected_shapes()
    assert set(shapes) == set(ours) == set(loaded)
    for name, shape in shapes.items():
        assert list(ours[name].shape) == shape and ours[name].dtype == "float32"
        np.testing.assert_array_equal(loaded[name], ours[name].values)


def test_adapter_config_has_paddlemix_keys(run):
    values = json.loads((run[1] / "lora_config.json").read_text())
    assert (values["r"], values["lora_alpha"], values["scaling"], values["lora_dropout"]) == (4, 8, 2.0, 0.0)
    assert values["dtype"] == "float32" and values["tensor_parallel_degree"] in (-1, 1)
    assert values["base_model_name_or_path"] == str(tiny_folder.folder("anyres"))
    names = [f"llama.layers.{number}.{name}" for number in (0, 1) for name, _, _ in LINEARS]
    matched = [[name for name in names if re.fullmatch(pattern, name)] for pattern in values["target_modules"]]
    assert sorted(matched) == sorted([name] for name in names)


def test_merged_weights_are_base_plus_scaled_product(run):
    trainer, output = run
    tuned, base = weights(trainer.llava), weights(tiny_folder.load("anyres")[0])
    merged = weights(LlavaForConditionalGeneration.from_pretrained(output))
    for name in base:
        stem = name.removesuffix(".weight")
        expected = tuned[name].astype(np.float64)
        if f"{stem}.lora_A" in tuned:
            expected = base[name] + 2.0 * tuned[f"{stem}.lora_A"].astype(np.float64) @ tuned[f"{stem}.lora_B"]
            assert np.abs(expected - base[name]).max() > 1e-4
        np.testing.assert_allclose(merged[name], expected, atol=1e-6, err_msg=name)


def test_merged_logits_equal_those_with_the_adapter_and_not_the_base(run):
    trainer, output = run
    batch = batch_of(trainer)
    tuned = trainer.llava(batch).numpy()
    merged = LlavaForConditionalGeneration.from_pretrained(output)(batch).numpy()
    base = tiny_folder.load("anyres")[0](batch).numpy()
    assert np.abs(merged - tuned).max() < 1e-5 * max(1, np.abs(tuned).max())
    assert np.abs(merged - base).max() > 1e-1


class PaddleMixTree(nn.Layer):
    """Our layers under the names of PaddleMIX's model."""

    def __init__(self, model):
        super().__init__()
        self.config = model.config
        self.llama = model.language_model
        self.llama.mm_projector = model.projector
        self.llama.image_newline = model.image_newline


def test_paddlenlp_reads_the_adapter_folder_of_a_paddlemix_model(run):
    _, output = run
    wrapped = LoRAModel.from_pretrained(PaddleMixTree(tiny_folder.load("anyres")[0]), str(output))
    wrapped.merge()
    merged = weights(LlavaForConditionalGeneration.from_pretrained(output))
    loaded = {name: parameter.numpy() for name, parameter in wrapped.model.named_parameters()}
    for number in (0, 1):
        for name, _, _ in LINEARS:
            ours = merged[f"language_model.layers.{number}.{name}.weight"]
            np.testing.assert_allclose(loaded[f"llama.layers.{number}.{name}.weight"], ours, atol=1e-6)
    np.testing.assert_array_equal(loaded["llama.mm_projector.2.weight"], merged["projector.2.weight"])


@pytest.mark.parametrize("place", ["", "checkpoint-2", "checkpoint-4"])
def test_adapter_folder_chats_by_itself(place, run):
    _, output = run
    folder = output / place
    session = ChatSession(
        LlavaForConditionalGeneration.from_pretrained(folder),
        LlavaProcessor.from_pretrained(folder),
        sampling=GREEDY,
    )
    assert isinstance(session.ask("What is this?", [tiny_folder.random_image(1)]), str)
    assert not (folder / "model.safetensors").exists()


def test_merge_script_writes_a_folder_that_chats_without_its_inputs(run, tmp_path):
    trainer, output = run
    script = ROOT / "paddlemix/examples/llava/merge_lora_params.py"
    options = ["--model_name_or_path", tiny_folder.folder("anyres"), "--lora_path", output, "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, str(script), *map(str, options), "--merge_model_path", str(tmp_path / "merged")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "merged").iterdir()) == [
        NOTE,
        "config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    merged = LlavaForConditionalGeneration.from_pretrained(tmp_path / "merged")
    assert not differing(weights(merged), weights(LlavaForConditionalGeneration.from_pretrained(output)))
    session = ChatSession(merged, LlavaProcessor.from_pretrained(tmp_path / "merged"), sampling=GREEDY)
    direct = ChatSession(trainer.llava, trainer.processor, sampling=GREEDY)
    assert session.ask("Why?", [tiny_folder.random_image(2)]) == direct.ask("Why?", [tiny_folder.random_image(2)])


def test_projector_may_have_adapters_too(tmp_path, data):
    patterns = [*LORA["lora_target_modules"], r"llama\.mm_projector\..*"]
    values = settings(tmp_path, data, learning_rate=5e-3, **{**LORA, "lora_target_modules": patterns})
    trainer = train(values)
    trainer.llava.eval()
    batch = batch_of(trainer)
    expected = trainer.llava(batch).numpy()
    merged = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    np.testing.assert_allclose(merged(batch).numpy(), expected, atol=1e-4)
    assert "projector.0.lora_B" in weights(trainer.llava)


def test_order_of_an_adapter_file_does_not_matter(tmp_path, data):
    patterns = [r"llama\.mm_projector\..*"]
    train(settings(tmp_path, data, learning_rate=5e-3, **{**LORA, "lora_target_modules": patterns}))
    output = tmp_path / "out"
    before = weights(LlavaForConditionalGeneration.from_pretrained(output))
    tensors = paddle.load(str(output / WEIGHTS))
    paddle.save(dict(sorted(tensors.items(), reverse=True)), str(output / WEIGHTS))
    assert not differing(before, weights(LlavaForConditionalGeneration.from_pretrained(output)))
    paddle.save(dict(sorted(tensors.items(), key=lambda item: "lora_" not in item[0])), str(output / WEIGHTS))
    assert not differing(before, weights(LlavaForConditionalGeneration.from_pretrained(output)))


def test_new_run_continues_from_an_adapter(run, tmp_path, data):
    trainer, output = run
    resumed = build(settings(tmp_path, data, "anyres", lora_path=str(output), **LORA))
    assert not differing(weights(trainer.llava), weights(resumed.llava))


def test_adapter_of_another_rank_is_refused(run, tmp_path, data):
    with pytest.raises(ValueError, match="does not fit this run's LoRA settings"):
        build(settings(tmp_path, data, "anyres", lora_path=str(run[1]), **{**LORA, "lora_rank": 8}))


@pytest.mark.parametrize("change", [{"lora_alpha": 64}, {"rslora": True}])
def test_adapter_that_would_be_scaled_otherwise_is_refused(run, tmp_path, data, change):
    with pytest.raises(ValueError, match=r"is scaled by 2 .* would be scaled by (16|4), which is another model"):
        build(settings(tmp_path, data, "anyres", lora_path=str(run[1]), **{**LORA, **change}))


def test_adapter_that_would_be_left_out_is_refused(run, tmp_path, data):
    with pytest.raises(ValueError, match=r"lora_path is .*, and lora is not true"):
        build(settings(tmp_path, data, "anyres", lora_path=str(run[1])))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_merge_of_values_that_are_not_finite_is_refused(run, tmp_path, value):
    broken = tmp_path / "broken"
    shutil.copytree(run[1], broken, ignore=shutil.ignore_patterns("checkpoint-*"))
    tensors = paddle.load(str(broken / WEIGHTS))
    name = next(name for name in tensors if name.endswith("lora_B"))
    paddle.save({**tensors, name: paddle.full_like(tensors[name], value)}, str(broken / WEIGHTS))
    with pytest.raises(CheckpointError, match="values that are not finite in language_model"):
        merge(broken, tmp_path / "merged", device="cpu")
    assert not (tmp_path / "merged").exists()


def test_adapters_start_from_the_runs_seed(tmp_path, data):
    starts = [weights(build(settings(tmp_path, data, seed=seed, **LORA)).llava) for seed in (1, 1, 2)]
    assert not differing(starts[0], starts[1])
    assert differing(starts[0], starts[2]) == {name for name in starts[0] if name.endswith("lora_A")}


def test_fresh_adapters_change_nothing(tmp_path, data):
    trainer = build(settings(tmp_path, data, **LORA))
    batch = batch_of(trainer)
    trainer.llava.eval()
    with paddle.no_grad():  # without gradients both models encode tiles one by one
        found, expected = trainer.llava(batch), tiny_folder.load("pad")[0](batch)
    np.testing.assert_array_equal(found.numpy(), expected.numpy())


def test_full_model_in_a_former_adapter_folder_is_read_as_the_full_model(tmp_path, data):
    train(settings(tmp_path, data, max_steps=1, **LORA))
    trainer = train(settings(tmp_path, data, max_steps=1))
    saved = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert not differing(weights(saved), weights(trainer.llava))


def test_merging_into_a_former_adapter_folder_gives_a_model_folder(run, tmp_path, data):
    train(settings(tmp_path, data, "anyres", max_steps=1, **LORA))
    with pytest.raises(CheckpointError, match="not an earlier output of merge"):
        merge(run[1], tmp_path / "out")
    merge(run[1], tmp_path / "out", is_overwriting=True)
    expected = weights(LlavaForConditionalGeneration.from_pretrained(run[1]))
    assert not differing(weights(LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")), expected)


def test_merge_takes_the_names_of_llavas_script(run, tmp_path):
    base, out = tiny_folder.folder("anyres"), tmp_path / "out"
    words = ["merge", "--model-path", str(run[1]), "--model-base", str(base), "--save-model-path", str(out)]
    assert cli.main([*words, "--device", "cpu"]) == 0
    expected = weights(LlavaForConditionalGeneration.from_pretrained(run[1]))
    assert not differing(weights(LlavaForConditionalGeneration.from_pretrained(out)), expected)
    assert cli.main([*words, "--lora_path", "x"]) == cli.main(["merge", "--model-path", "x"]) == 1
