"""Folders as PaddleMIX writes them: they load to the logits of the model of transformers that they were made from."""

from __future__ import annotations

import io
import json

import numpy as np
import paddle
import pytest
import reference_models as tiny
import sentencepiece
from safetensors.numpy import save_file

from paddlemix import LlavaForConditionalGeneration
from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.processor import LlavaProcessor
from paddlemix.checkpoints.source import read_config
from paddlemix.tensor_files.stored import CheckpointError

ANYRES = {
    "image_aspect_ratio": "anyres",
    "mm_patch_merge_type": "spatial_unpad",
    "image_grid_pinpoints": tiny.PINPOINTS,
}
PDPARAMS, INDEX = "model_state.pdparams", "model_state.pdparams.index.json"


def write_weights(folder, state: dict, kind: str) -> None:
    """Write a state in one of the ways in which PaddleNLP does."""
    if kind == "pdparams":
        paddle.save({name: paddle.to_tensor(values) for name, values in state.items()}, str(folder / PDPARAMS))
    elif kind == "safetensors":
        save_file(state, folder / "model.safetensors", metadata={"format": "np"})
    else:
        names = sorted(state)
        weight_map = {}
        for number, part in enumerate(np.array_split(names, 3), start=1):
            shard = f"model_state-{number:05d}-of-00003.pdparams"
            paddle.save({name: state[name] for name in part.tolist()}, str(folder / shard))
            weight_map |= dict.fromkeys(part.tolist(), shard)
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_folder(folder, reference, kind="pdparams", without=(), grids=None, **changes):
    """Write a reference model; without: starts of the names that are left out."""
    tiny.write_paddlemix_json(folder, tiny.paddlemix_config(reference.model, **changes), grids)
    state = {
        name: value
        for name, value in tiny.paddlemix_state(reference.model).items()
        if not name.startswith(tuple(without))
    }
    write_weights(folder, state, kind)
    return folder


@pytest.mark.parametrize("kind", ["pdparams", "sharded-pdparams", "safetensors"])
def test_v1_5_folder_loads_to_the_reference_logits(v1_5, tmp_path, kind):
    v1_5.check_folder(write_folder(tmp_path, v1_5, kind))


@pytest.mark.parametrize("kind", ["pdparams", "sharded-pdparams", "safetensors"])
def test_v1_6_folder_loads_to_the_reference_logits(v1_6, tmp_path, kind):
    v1_6.check_folder(write_folder(tmp_path, v1_6, kind, **ANYRES))


@pytest.mark.parametrize("changes", [{"image_aspect_ratio": None}, {"image_grid_pinpoints": None}], ids=str)
def test_v1_6_grids_may_stand_in_the_processors_file_or_be_a_text(v1_6, tmp_path, changes):
    config = {**ANYRES, **changes}
    if "image_aspect_ratio" in changes:
        config |= {"image_aspect_ratio": "anyres", "image_grid_pinpoints": str(tiny.PINPOINTS)}
    v1_6.check_folder(write_folder(tmp_path, v1_6, grids=tiny.PINPOINTS, **config))


def test_image_processors_file_gives_mean_and_deviation(v1_5, tmp_path):
    spec = read_config(write_folder(tmp_path, v1_5)).image
    assert (spec.mode, spec.mean, spec.std) == ("pad", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def test_tower_of_an_unknown_name_gets_its_shape_from_the_weights(v1_5, tmp_path):
    vision = read_config(write_folder(tmp_path, v1_5, mm_vision_tower="somebody/clip-of-my-own")).vision
    theirs = v1_5.model.config.vision_config
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "image_size", "patch_size"):
        assert getattr(vision, name) == getattr(theirs, name), name
    assert vision.num_attention_heads == 1


def test_folder_without_tower_weights_and_without_a_known_name_is_refused(v1_5, tmp_path):
    folder = write_folder(tmp_path, v1_5, without=["llama.vision_tower"])
    with pytest.raises(CheckpointError, match=r"hold no vision tower .* names none that is known"):
        load_model(folder, device="cpu")


def test_known_tower_without_weights_never_loads_silently(v1_5, tmp_path):
    changes = {
        "mm_vision_tower": "openai/clip-vit-base-patch32",
        "mm_hidden_size": 768,
        "without": ["llama.vision_tower", "llama.mm_projector"],
    }
    folder = write_folder(tmp_path, v1_5, **changes)
    assert read_config(folder).vision.patch_size == 32
    with pytest.raises(CheckpointError, match="the projector is missing"):
        load_model(folder, device="cpu")


def test_config_of_a_known_tower_is_read_without_weights(v1_5, tmp_path):
    folder = write_folder(tmp_path, v1_5, mm_vision_tower="openai/clip-vit-large-patch14-336", mm_hidden_size=1024)
    (folder / PDPARAMS).unlink()
    config = read_config(folder)
    assert (config.vision.image_size, config.vision.num_attention_heads, config.image.mode) == (336, 16, "pad")
    assert config.language.vocab_size == 99


def test_unused_newline_of_a_pad_model_is_left_out(v1_5, tmp_path):
    folder = write_folder(tmp_path, v1_5)
    state = {**tiny.paddlemix_state(v1_5.model), "llama.image_newline": np.full(48, np.nan, np.float32)}
    write_weights(folder, state, "pdparams")
    model = load_model(folder, device="cpu")
    assert model.image_newline is None
    v1_5.check(model)


def test_missing_newline_of_an_anyres_model_is_named(v1_6, tmp_path):
    folder = write_folder(tmp_path, v1_6, without=["llama.image_newline"], **ANYRES)
    with pytest.raises(CheckpointError, match="1 tensor missing: image_newline"):
        load_model(folder, device="cpu")


def test_old_config_without_optional_keys_loads(v1_5, tmp_path):
    optional = ("mm_vision_select_layer", "mm_vision_select_feature", "mm_hidden_size", "mm_use_im_start_end", "dtype")
    optional += ("pretrain_mm_mlp_adapter", "pretraining_tp", "image_aspect_ratio", "eos_token_id", "bos_token_id")
    folder = write_folder(tmp_path, v1_5, **dict.fromkeys(optional))
    config = read_config(folder)
    assert (config.image.mode, config.dtype, config.eos_token_ids) == ("square", "float32", (2,))
    v1_5.check_folder(folder)


@pytest.mark.parametrize("merge", ["flat", "spatial"])
def test_anyres_folder_without_newline_loads(v1_6, tmp_path, merge):
    folder = write_folder(tmp_path, v1_6, without=["llama.image_newline"], **{**ANYRES, "mm_patch_merge_type": merge})
    config = load_model(folder, device="cpu").config
    assert (config.image.merge, config.has_image_newline) == (merge, False)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"mm_projector_type": "qformer"}, "unknown projector type 'qformer'"),
        ({"mm_vision_select_feature": "cls"}, "select_feature is 'cls', expected 'patch' or"),
        ({"image_aspect_ratio": "anyres_max_9"}, "image spec: mode is 'anyres_max_9', expected 'square' or"),
        ({**ANYRES, "image_grid_pinpoints": "[(1, "}, "image_grid_pinpoints"),
        ({**ANYRES, "image_grid_pinpoints": "__import__('os')"}, "image_grid_pinpoints"),
        ({**ANYRES, "image_grid_pinpoints": "5"}, "image_grid_pinpoints"),
        ({**ANYRES, "image_grid_pinpoints": None}, "at least one grid"),
        ({"mm_projector_type": "mlp3x_gelu"}, r"missing: projector\.4"),
        ({"mm_projector_type": "linear"}, r"unrecognized tensors: llama\.mm_projector\.0"),
        ({"hidden_size": "48"}, r"config\.json: hidden_size is '48', expected a whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, expected a whole number from 1"),
        ({"mm_resampler_type": "x"}, "a resampler"),
        ({"s2": True}, "s2 is set"),
        ({"mm_hidden_size": 99}, "mm_hidden_size is 99, but the features of the tower"),
        ({"vision_config": [1]}, "vision_config is .1., expected an object"),
        ({"vision_config": {"use_rope": True}}, "states use_rope True"),
        ({"vision_config": {"num_channels": 4}}, "num_channels 4 .expected 3"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "model_type is 'siglip_vision_model'"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_scaling_type": "linear"},
            "rope_scaling_type with rope_scaling_factor .* are not the same",
        ),
        ({"mm_dense_connector_type": "sci"}, "mm_dense_connector_type 'sci'"),
        ({"num_key_value_heads": 4}, "num_attention_heads 6 is not a multiple of num_key_value_heads 4"),
    ],
    ids=range(21),
)
def test_bad_config_values_are_refused_with_the_value(v1_6, tmp_path, changes, text):
    folder = write_folder(tmp_path, v1_6, **changes)
    with pytest.raises(ValueError, match=text):
        load_model(folder, device="cpu")


def test_folder_without_weights_is_refused(v1_5, tmp_path):
    folder = write_folder(tmp_path, v1_5)
    (folder / PDPARAMS).unlink()
    with pytest.raises(CheckpointError, match="the weights are missing"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda shards: {"a.weight": "../outside.pdparams"}, r"outside its folder: '\.\./outside\.pdparams'"),
        (lambda shards: {"a.weight": "/etc/passwd"}, "outside its folder"),
        (lambda shards: {**shards, "a.weight": "model_state-9.pdparams"}, r"shard model_state-9\.pdparams is missing"),
        (lambda shards: {**shards, "a.weight": next(iter(shards.values()))}, "is in no shard: a.weight"),
        (lambda shards: {"a.weight": 5}, "no 'weight_map' object"),
        (lambda shards: list(shards), "no 'weight_map' object"),
    ],
    ids=range(6),
)
def test_bad_index_is_refused(v1_5, tmp_path, change, text):
    folder = write_folder(tmp_path, v1_5, "sharded-pdparams")
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    (folder / INDEX).write_text(json.dumps({"weight_map": change(weight_map)}))
    with pytest.raises(CheckpointError, match=text):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_bfloat16_pdparams_load_to_the_values_that_they_hold(v1_5, tmp_path, protocol):
    folder = write_folder(tmp_path, v1_5, dtype="bfloat16")
    state = {
        name: paddle.to_tensor(value).astype("bfloat16") for name, value in tiny.paddlemix_state(v1_5.model).items()
    }
    paddle.save(state, str(folder / PDPARAMS), protocol=protocol)
    assert read_config(folder).dtype == "bfloat16"
    model = load_model(folder, device="cpu")
    expected = v1_5.model.model.language_model.layers[0].mlp.up_proj.weight.detach().bfloat16().float().numpy()
    np.testing.assert_array_equal(model.language_model.layers[0].mlp.up_proj.weight.numpy(), expected.T)


def vocabulary() -> bytes:
    model = io.BytesIO()
    words = ["a picture of a red square and a blue circle", "what is in the picture? USER: ASSISTANT:"]
    options = {"model_type": "bpe", "vocab_size": 60, "minloglevel": 2, "num_threads": 1}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(words * 3), model_writer=model, **options)
    return model.getvalue()


def test_processor_is_read_from_paddlemix_files_and_written_to_our_folder(v1_5, tmp_path):
    folder = write_folder(tmp_path / "theirs", v1_5)
    (folder / "sentencepiece.bpe.model").write_bytes(vocabulary())
    processor = LlavaProcessor.from_pretrained(folder)
    reference = sentencepiece.SentencePieceProcessor(model_proto=vocabulary())
    text = "what is in the red picture?"
    assert processor.decode(reference.encode(text)) == text
    processor.save_pretrained(tmp_path / "ours")
    LlavaForConditionalGeneration.from_pretrained(folder, device="cpu").save_pretrained(tmp_path / "ours")
    again = LlavaProcessor.from_pretrained(tmp_path / "ours")
    assert (again.spec, again.template) == (processor.spec, processor.template)
    assert again.decode(reference.encode(text)) == text
    v1_5.check_folder(tmp_path / "ours")
