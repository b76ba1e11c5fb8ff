"""Training models with marks around an image: stage 1 trains the marks' embeddings too, as LLaVA's first version."""

from __future__ import annotations

import json

import marked_models
import numpy as np
import pytest
import tiny_folder
from cache_folder import make
from tiny_training import LORA, build, differing, settings, train, weights

from paddlemix import LlavaForConditionalGeneration, LlavaProcessor
from paddlemix.data.encoding import Encoding
from paddlemix.data.mixture import scan_mixture

EMBEDDING = "language_model.embed_tokens.weight"
MAX_LENGTH = 256


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_folder.write_rows(tmp_path_factory.mktemp("images"), kinds="10")


def values_of(folder, data, **changes) -> dict:
    return settings(folder, data, model_name_or_path=str(marked_models.composed()), learning_rate=1e-2, **changes)


@pytest.mark.parametrize("quantized", [{}, {"load_in_4bit": True}], ids=["float32", "nf4"])
def test_stage_1_trains_the_projector_and_the_rows_of_the_marks_alone(tmp_path, data, quantized):
    before = weights(LlavaForConditionalGeneration.from_pretrained(marked_models.composed()))
    train(values_of(tmp_path, data, tune_mm_mlp_adapter=True, **quantized))
    after = weights(LlavaForConditionalGeneration.from_pretrained(tmp_path / "out"))
    assert differing(before, after) == {EMBEDDING, *(name for name in before if name.startswith("projector."))}
    changed = (before[EMBEDDING] != after[EMBEDDING]).any(axis=1)
    assert np.flatnonzero(changed).tolist() == [tiny_folder.VOCAB_SIZE, tiny_folder.VOCAB_SIZE + 1]
    processor = LlavaProcessor.from_pretrained(tmp_path / "out")
    assert processor.template.has_image_marks


def test_other_models_train_the_projector_alone_in_stage_1(tmp_path, data):
    before = weights(tiny_folder.load("pad")[0])
    trainer = train(settings(tmp_path, data, tune_mm_mlp_adapter=True))
    assert {name.split(".")[0] for name in differing(before, weights(trainer.llava))} == {"projector"}


def test_full_run_trains_all_embeddings_with_those_of_the_marks(tmp_path, data):
    before = weights(LlavaForConditionalGeneration.from_pretrained(marked_models.composed()))
    after = weights(train(values_of(tmp_path, data)).llava)
    changed = np.flatnonzero((before[EMBEDDING] != after[EMBEDDING]).any(axis=1)).tolist()
    assert changed[-2:] == [tiny_folder.VOCAB_SIZE, tiny_folder.VOCAB_SIZE + 1] and len(changed) > 20


def test_gradients_of_the_marks_equal_those_with_all_embeddings_trained(tmp_path, data):
    """That the others get none changes nothing for the marks."""
    trainer = build(values_of(tmp_path, data, tune_mm_mlp_adapter=True))
    model, start = trainer.llava, tiny_folder.VOCAB_SIZE
    batch = next(iter(trainer.get_train_dataloader()))
    model.train()
    found = []
    for ids in (model.only_trained_ids, None):
        model.only_trained_ids = ids
        model.clear_gradients()
        trainer.compute_loss(model, batch).backward()
        found.append(dict(model.named_parameters())[EMBEDDING].grad.numpy())
    np.testing.assert_array_equal(found[0][start:], found[1][start:])
    assert np.abs(found[0][start:]).max() > 0 and not found[0][:start].any() and found[1][:start].any()


def test_setting_is_accepted_where_it_is_true_of_the_model(tmp_path, data):
    assert build(values_of(tmp_path, data, mm_use_im_start_end=True)).llava.config.has_image_marks
    with pytest.raises(ValueError, match=r"mm_use_im_start_end is false, but .* has <im_start> and <im_end> around"):
        build(values_of(tmp_path, data, mm_use_im_start_end=False))
    with pytest.raises(ValueError, match=r"has no marks around an image: .* `paddlemix compose --image-marks ...`"):
        build(settings(tmp_path, data, mm_use_im_start_end=True))
    assert build(settings(tmp_path, data, mm_use_im_start_end=False))


def test_tokens_prepared_for_a_model_without_marks_are_refused(tmp_path, data):
    processor = LlavaProcessor.from_pretrained(marked_models.composed())
    plain = LlavaProcessor.from_pretrained(tiny_folder.folder("pad"))
    tokenizer, spec = processor.tokenizer, processor.spec
    without = Encoding(tokenizer, plain.with_template("llava_v0").template, spec, MAX_LENGTH)
    entry = {"data_files": str(data), "image_folder": str(data.parent)}
    make(tmp_path / "cache", entry, without)
    cached = {"name": "token_cache", "data_files": str(tmp_path / "cache")}
    assert scan_mixture(cached, "train", encoding=without)
    with pytest.raises(ValueError, match="template image_marks was null, and is true"):
        scan_mixture(cached, "train", encoding=Encoding(tokenizer, processor.template, spec, MAX_LENGTH))


def test_adapter_over_a_model_with_marks_has_them(tmp_path, data):
    train(values_of(tmp_path, data, **LORA))
    assert LlavaProcessor.from_pretrained(tmp_path / "out").template.has_image_marks
    assert json.loads((tmp_path / "out" / "processor_config.json").read_text())["has_image_marks"] is True
