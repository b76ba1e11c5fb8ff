"""A model composed from its parts: its logits equal those of transformers, and it names the untrained parts."""

from __future__ import annotations

import argparse
import json
import shutil

import image_processor_cases as cases
import numpy as np
import pytest
import reference_models as tiny
import tiny_folder
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionModel, LlamaForCausalLM

from paddlemix.checkpoints.compose import Choices, compose
from paddlemix.checkpoints.layouts.decoder import is_decoder
from paddlemix.checkpoints.layouts.folder import Folder
from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.processor import LlavaProcessor
from paddlemix.checkpoints.projector_file import extract_projector
from paddlemix.checkpoints.source import read_config
from paddlemix.commands import compose as command
from paddlemix.conversation.load_tokenizer import load_tokenizer
from paddlemix.image.spec import CLIP_MEAN
from paddlemix.tensor_files.stored import CheckpointError

NUM_ROWS = tiny_folder.VOCAB_SIZE
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
# A projector's names in LLaVA's files and in transformers' model.
HF_PROJECTOR = {"model.mm_projector.0": "linear_1", "model.mm_projector.2": "linear_2"}


def widen(model):
    """Draw weights that matter, instead of the usual narrow ones."""
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=0.16)
        elif "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """A LLaMA and its folder, with a tokenizer."""
    folder = tmp_path_factory.mktemp("language")
    torch.manual_seed(1)
    model = widen(LlamaForCausalLM(tiny.text_config(vocab_size=NUM_ROWS)))
    model.save_pretrained(folder)
    for file in tiny_folder.folder("pad").glob("*token*"):
        shutil.copy(file, folder)
    return model, folder


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """A CLIP tower, and by kind the folders of the tower and of a whole CLIP model that contains it."""
    parent = tmp_path_factory.mktemp("towers")
    torch.manual_seed(2)
    tower = widen(CLIPVisionModel(tiny.vision_config()))
    text = CLIPTextConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1)
    whole = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=tiny.vision_config().to_dict()))
    whole.vision_model.load_state_dict(tower.vision_model.state_dict())
    tower.save_pretrained(parent / "tower")
    tower.save_pretrained(parent / "tower-bin", safe_serialization=False)
    whole.save_pretrained(parent / "whole")
    for folder in parent.iterdir():
        (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    return tower, {folder.name: folder for folder in parent.iterdir()}


def combine_parts(language, tower, projector_file, is_next):
    """Return transformers' LLaVA with these parts and the projector of a file."""
    model = tiny.hf_model(is_next, vocab_size=NUM_ROWS)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    model.model.vision_tower.load_state_dict(tower.state_dict())
    stored = torch.load(projector_file, weights_only=True)
    if is_next:
        model.model.image_newline.data.copy_(stored.pop("model.image_newline"))
    theirs = {f"{HF_PROJECTOR[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": stored[name] for name in stored}
    model.model.multi_modal_projector.load_state_dict(theirs)
    return model


@pytest.mark.parametrize("kind", ["tower", "whole"])
@pytest.mark.parametrize("is_next", [False, True], ids=["pad", "anyres"])
def test_composed_model_equals_transformers_with_the_same_parts(tmp_path, language, towers, kind, is_next):
    mode = "anyres" if is_next else "pad"
    compose(language[1], towers[1][kind], tmp_path / "out", Choices(mode=mode))
    extract_projector(tmp_path / "out", tmp_path / "mm_projector.bin")
    torch.manual_seed(2)
    expected = combine_parts(language[0], towers[0], tmp_path / "mm_projector.bin", is_next)
    config = read_config(tmp_path / "out")
    batch = tiny.make_batch(np.random.default_rng(0), [[3, (60, 40), 5, (30, 90), 4]], config.image)
    logits = load_model(tmp_path / "out", device="cpu")(batch).numpy()
    np.testing.assert_allclose(logits, tiny.hf_logits(expected, batch, is_next), atol=1e-4)
    assert (config.image.mode, config.image.mean, config.image.std) == (mode, tuple(MEAN), tuple(STD))
    assert config.image.grids == (tuple(map(tuple, tiny.PINPOINTS)) if is_next else ())
    assert config.untrained == (("projector", "image_newline") if is_next else ("projector",))


@pytest.mark.parametrize("is_nested", [False, True])
def test_settings_of_the_towers_image_processor_are_kept_in_the_model(tmp_path, language, towers, is_nested):
    tower = shutil.copytree(towers[1]["tower"], tmp_path / "tower")
    (tower / "preprocessor_config.json").unlink()
    cases.write_processor(tower, {**cases.CLIP, "resample": 2, "size": {"shortest_edge": 37}}, is_nested)
    compose(language[1], tower, tmp_path / "out", Choices(mode="square"))
    image = read_config(tmp_path / "out").image
    assert (image.resample, image.resize, image.mean) == ("bilinear", (37,), CLIP_MEAN)
    with pytest.raises(CheckpointError, match=r"resized to \[37\] px for a side of 28 px, so that the tower cannot be"):
        compose(language[1], tower, tmp_path / "larger", Choices(image_size=56))
    with pytest.raises(CheckpointError, match=r"resized to \[37\] px for a side of 28 px"):
        compose(language[1], tmp_path / "out", tmp_path / "again", Choices(image_size=56))


OTHERS = [
    ("mistral", "mistral_instruct"),
    ("qwen2", "qwen_2"),
    ("mpt", "mpt"),
    ("gemma", "gemma"),
    ("ernie4_5", "ernie"),
]


@pytest.mark.parametrize(("family", "template"), OTHERS)
def test_decoder_of_another_family_computes_the_same_after_composing(tmp_path, language, towers, family, template):
    folder, batch = tmp_path / "language", tiny.make_batch(np.random.default_rng(0), [[30], [12]], None)
    shutil.copytree(language[1], folder, ignore=shutil.ignore_patterns("*.safetensors", "generation_config.json"))
    model = widen(AutoModelForCausalLM.from_config(tiny.text_config(family, vocab_size=NUM_ROWS)))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    config = compose(folder, towers[1]["tower"], tmp_path / "out", Choices())
    ends = () if family == "mpt" else (2,)  # MPT's config names no token
    assert (config.language.family, config.template, config.eos_token_ids) == (family, template, ends)
    logits, is_real = load_model(tmp_path / "out", device="cpu")(batch).numpy(), batch.segment_ids > 0
    np.testing.assert_allclose(logits[is_real], tiny.hf_logits(model, batch, False)[is_real], atol=1e-4)


def test_decoder_is_known_by_every_name_of_its_class(tmp_path):
    AutoModelForCausalLM.from_config(tiny.text_config("ernie4_5")).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    assert values["architectures"] == ["Ernie4_5ForCausalLM"]
    for name, is_known in (("Ernie4_5ForCausalLM", True), ("Ernie4_5_ForCausalLM", True), ("Ernie4_5_Moe", False)):
        path.write_text(json.dumps({**values, "architectures": [name]}))
        assert is_decoder(Folder(tmp_path)) == is_known


def test_language_model_and_tower_keep_their_values_dtypes_and_tokenizer(tmp_path, language, towers):
    half = tmp_path / "half"
    shutil.copytree(language[1], half)
    save_file(
        {name: tensor.half() for name, tensor in load_file(half / "model.safetensors").items()},
        half / "model.safetensors",
    )
    config = compose(half, towers[1]["tower-bin"], tmp_path / "out", Choices())
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert config.dtype == "float16" == read_config(tmp_path / "out").dtype
    state = language[0].state_dict()
    assert torch.equal(found["language_model.lm_head.weight"], state["lm_head.weight"].half().T)
    tower = torch.load(towers[1]["tower-bin"] / "pytorch_model.bin", weights_only=True)
    assert torch.equal(
        found["vision_tower.layers.1.fc1.weight"], tower["vision_model.encoder.layers.1.mlp.fc1.weight"].T
    )
    dtypes = {name: tensor.dtype for name, tensor in found.items()}
    assert {dtypes[name] for name in dtypes if name.startswith("vision_tower.")} == {torch.float32}
    assert {dtypes[name] for name in dtypes if not name.startswith("vision_tower.")} == {torch.float16}
    assert load_tokenizer(tmp_path / "out").encode("A cat.", is_start=True) == load_tokenizer(half).encode(
        "A cat.", is_start=True
    )
    assert LlavaProcessor.from_pretrained(tmp_path / "out").template.name == "vicuna_v1"


def weights_of(folder, start="projector."):
    found = {}
    for shard in folder.glob("*.safetensors"):
        found |= {name: tensor.numpy() for name, tensor in load_file(shard).items() if name.startswith(start)}
    return found


@pytest.mark.parametrize("projector_type", ["linear", "mlp2x_gelu", "mlp3x_gelu"])
def test_new_projector_is_spread_as_torchs_linear_layers_are_and_follows_the_seed(
    tmp_path, language, towers, projector_type
):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        choices = Choices(projector_type=projector_type, seed=seed)
        compose(language[1], towers[1]["tower"], tmp_path / name, choices, max_shard_size="50KB")
    first, same, other = (weights_of(tmp_path / name) for name in "abc")
    assert len(first) == {"linear": 2, "mlp2x_gelu": 4, "mlp3x_gelu": 6}[projector_type]
    widths = [32, 48, 48]
    for place in range(len(first) // 2):
        weight, bias = first[f"projector.{2 * place}.weight"], first[f"projector.{2 * place}.bias"]
        assert weight.shape == (widths[place], 48) and bias.shape == (48,)
        bound = np.abs(torch.nn.Linear(widths[place], 4096).weight.detach().numpy()).max()
        for values in (weight, bias):
            assert 0.8 * bound < np.abs(values).max() <= 1.001 * bound
            assert abs(values.mean()) < 0.2 * bound and 0.45 * bound < values.std() < 0.7 * bound
    assert all(np.array_equal(first[name], same[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)
    values = [tuple(weight.ravel()[:48]) for weight in first.values()]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("suffix", [".bin", ".safetensors", ".pdparams"])
@pytest.mark.parametrize("mode", ["pad", "anyres"])
def test_given_projector_is_taken_as_it_is_and_counts_as_trained(tmp_path, language, towers, suffix, mode):
    source = tmp_path / "source"
    compose(language[1], towers[1]["tower"], source, Choices(projector_type="mlp3x_gelu", mode=mode, seed=5))
    file = tmp_path / f"mm_projector{suffix}"
    extract_projector(source, file)
    config = compose(language[1], towers[1]["tower"], tmp_path / "out", Choices(projector=file, mode=mode))
    assert (config.projector_type, config.untrained) == ("mlp3x_gelu", ())
    for start in ("projector.", "image_newline"):
        before, after = weights_of(source, start), weights_of(tmp_path / "out", start)
        assert set(before) == set(after)
        assert all(np.array_equal(before[name], after[name]) for name in before)


def test_projector_without_a_newline_leaves_the_newline_untrained(tmp_path, language, towers):
    compose(language[1], towers[1]["tower"], tmp_path / "a", Choices(projector_type="linear"))
    extract_projector(tmp_path / "a", tmp_path / "p.bin")
    choices = Choices(projector=tmp_path / "p.bin", mode="anyres", grids=((56, 28),))
    config = compose(language[1], towers[1]["tower"], tmp_path / "b", choices)
    assert (config.projector_type, config.untrained) == ("linear", ("image_newline",))
    assert config.image.grids == ((56, 28),)


def test_parts_of_whole_llavas_are_taken_too(tmp_path, v1_6, language):
    config = compose(tiny_folder.folder("pad"), v1_6.folder, tmp_path / "out", Choices())
    ours = weights_of(tiny_folder.folder("pad"), "language_model.")
    found = weights_of(tmp_path / "out", "")
    assert all(np.array_equal(found[name], values) for name, values in ours.items())
    tower = v1_6.model.model.vision_tower.state_dict()
    expected = tower["vision_model.encoder.layers.0.mlp.fc2.weight"].numpy().T
    np.testing.assert_array_equal(found["vision_tower.layers.0.fc2.weight"], expected)
    assert config.eos_token_ids == read_config(tiny_folder.folder("pad")).eos_token_ids


def test_tied_embeddings_stay_tied(tmp_path, towers, language):
    model = LlamaForCausalLM(tiny.text_config(vocab_size=NUM_ROWS, tie_word_embeddings=True))
    model.save_pretrained(tmp_path / "tied")
    for file in language[1].glob("*token*"):
        shutil.copy(file, tmp_path / "tied")
    config = compose(tmp_path / "tied", towers[1]["tower"], tmp_path / "out", Choices())
    assert config.language.tie_word_embeddings and "language_model.lm_head.weight" not in weights_of(
        tmp_path / "out", ""
    )


def edited(folder, source, **changes):
    """Copy a folder and change keys of its config.json."""
    shutil.copytree(source, folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **changes}))
    return folder


def test_parts_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path, language, towers):
    folder, tower, out = language[1], towers[1]["tower"], tmp_path / "out"
    compose(folder, tower, tmp_path / "good", Choices(projector_type="linear"))
    extract_projector(tmp_path / "good", tmp_path / "p.bin")
    torch.save(
        {"model.mm_projector.weight": torch.ones(48, 7), "model.mm_projector.bias": torch.ones(48)}, tmp_path / "7.bin"
    )
    torch.save({"model.mm_projector.0.weight": torch.ones(48, 32)}, tmp_path / "half.bin")
    torch.save({"model.norm.weight": torch.ones(2)}, tmp_path / "rows.bin")
    no_tokenizer = tmp_path / "bare"
    shutil.copytree(folder, no_tokenizer, ignore=shutil.ignore_patterns("*token*"))
    cases = [
        (tower, tower, Choices(), "no language model in .*tower: expected a LlamaForCausalLM"),
        (folder, folder, Choices(), "no vision tower in .*: expected a CLIPVisionModel or SiglipVisionModel"),
        (tmp_path / "absent", tower, Choices(), "absent does not exist"),
        (no_tokenizer, tower, Choices(), "the language model needs its tokenizer"),
        (
            edited(tmp_path / "r", folder, vocab_size=30),
            tower,
            Choices(),
            "has ids up to 419, but the language model has 30",
        ),
        (edited(tmp_path / "w", folder, hidden_size=96), tower, Choices(), "of another shape"),
        (
            edited(tmp_path / "l", folder, num_hidden_layers=4),
            tower,
            Choices(),
            r"9 tensors missing: language_model\.layers\.3",
        ),
        (
            folder,
            tower,
            Choices(projector=tmp_path / "p.bin", projector_type="mlp2x_gelu"),
            "is of type linear, not mlp2x",
        ),
        (
            folder,
            tower,
            Choices(projector=tmp_path / "7.bin"),
            r"projector\.0\.weight \(\[7, 48\], expected \[32, 48\]\)",
        ),
        (folder, tower, Choices(projector=tmp_path / "half.bin"), "does not hold a whole projector"),
        (
            folder,
            tower,
            Choices(projector=tmp_path / "rows.bin"),
            "tensors that do not belong to a projector: model.norm.weight",
        ),
        (folder, tower, Choices(projector=tmp_path / "absent.bin"), "projector .*absent.bin does not exist"),
        (folder, tower, Choices(projector=tmp_path / "x.npz"), "expected a file that ends in one of .bin"),
        (folder, tower, Choices(projector_type="mlp"), "unknown projector type 'mlp'"),
        (folder, tower, Choices(grids=((28, 28),)), "are for image mode 'anyres' only"),
        (folder, tower, Choices(mode="anyres", grids=((30, 28),)), "multiples of the tile side 28"),
    ]
    for first, second, choices, message in cases:
        with pytest.raises(ValueError, match=message):
            compose(first, second, out, choices)
        assert not out.exists()


def test_command_composes_and_reports_the_random_parts(tmp_path, language, towers, capsys):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    flags = [
        "--language-model",
        str(language[1]),
        "--vision-tower",
        str(towers[1]["tower"]),
        "--output",
        str(tmp_path / "out"),
    ]
    flags += ["--image-aspect-ratio", "anyres", "--image-grid-pinpoints", "[[56, 28]]", "--template", "llava_v1"]
    assert command.run(parser.parse_args(flags)) == 0
    config = read_config(tmp_path / "out")
    assert (config.image.grids, config.template) == (((56, 28),), "llava_v1")
    assert "random values: projector, image_newline" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        parser.parse_args([*flags, "--image-grid-pinpoints", "[56, 28]"])
    assert "not a list of pairs" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is not empty"):
        command.run(parser.parse_args([*flags, "--output", str(tmp_path / "other")]))
