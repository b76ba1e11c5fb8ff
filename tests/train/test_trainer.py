"""Short training runs: which weights change and how, and that every checkpoint is a model."""

from __future__ import annotations

import dataclasses
import json
import math
import os

import numpy as np
import paddle
import pytest
import tiny_folder
from cached_reader import CachedReader
from tiny_training import PRETRAIN_FREEZE, build, differing, settings, train, weights

from paddlemix import LlavaForConditionalGeneration, LlavaProcessor
from paddlemix.commands.train import main
from paddlemix.generate.sampling import SamplingParams
from paddlemix.generate.session import ChatSession
from paddlemix.output import write_json
from paddlemix.train.loader import EpochBatchSampler
from paddlemix.train.run_folder import COMPLETE, FORMAT, RUN, last_checkpoint

UNUSED_TOWER = ("vision_tower.layers.2.", "vision_tower.post_norm.")
NOT_DECAYED = ("bias", "norm")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight rows with none, one, two and three images."""
    return tiny_folder.write_rows(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def image_data(tmp_path_factory):
    """Eight rows with one image each, which train the same number of tokens."""
    return tiny_folder.write_rows(tmp_path_factory.mktemp("images"), kinds="1", is_answer_fixed=True)


def start_weights(mode="pad"):
    return weights(tiny_folder.load(mode)[0])


def batch_of(trainer, indices):
    return trainer.data_collator([trainer.train_dataset[index] for index in indices])["batch"]


def cross_entropy(logits, labels):
    """Return the mean loss over the labels that are not -100, in float64."""
    logits, labels = logits[:, :-1].astype(np.float64), labels[:, 1:]
    shifted = logits - logits.max(axis=-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    rows, columns = np.nonzero(labels != -100)
    return -logs[rows, columns, labels[rows, columns]].mean()


def test_loss_falls_on_rows_that_are_seen_again_and_again(tmp_path, data):
    seen = train(settings(tmp_path, data, max_steps=16, per_device_train_batch_size=4)).recorder.losses
    assert len(seen) == 16 and seen[-1] < 0.7 * seen[0]


@pytest.mark.parametrize(
    "changes, parts",
    [
        ({}, ("language_model.", "projector.", "image_newline")),
        (PRETRAIN_FREEZE, ("projector.",)),
        ({"freeze_mm_mlp_adapter": True}, ("language_model.", "image_newline")),
        ({**PRETRAIN_FREEZE, "unfreeze_mm_vision_tower": True}, ("vision_tower.", "projector.")),
    ],
    ids=["all", "projector", "no projector", "tower"],
)
def test_exactly_the_trainable_parameters_change(changes, parts, tmp_path, image_data):
    trainer = train(settings(tmp_path, image_data, "anyres", max_steps=2, **changes))
    before, after = start_weights("anyres"), weights(trainer.llava)
    expected = {name for name in before if name.startswith(parts) and not name.startswith(UNUSED_TOWER)}
    assert differing(before, after) == expected


def first_step(start, gradients, rate_of, weight_decay):
    """Return the weights after AdamW's first step (Loshchilov and Hutter 2019), where m / sqrt(v) is g / |g|."""
    stepped = {}
    for name, gradient in gradients.items():
        rate, value = rate_of(name), start[name].astype(np.float64)
        is_decayed = not any(part in name for part in NOT_DECAYED)
        value = value * (1 - rate * weight_decay) if is_decayed else value
        stepped[name] = value - rate * gradient / (np.abs(gradient) + 1e-8)
    return stepped


@pytest.mark.parametrize("projector_rate, tower_rate", [(None, None), (2e-4, None), (2e-4, 5e-4), (None, 3e-3)])
def test_first_step_is_adamw_with_the_groups_rates_and_decay(projector_rate, tower_rate, tmp_path, image_data):
    changes = {"mm_projector_lr": projector_rate, "mm_vision_tower_lr": tower_rate, "weight_decay": 0.1}
    changes |= {"max_grad_norm": 0.0, "unfreeze_mm_vision_tower": True}
    trainer = build(settings(tmp_path, image_data, "anyres", max_steps=1, per_device_train_batch_size=8, **changes))
    model, _ = tiny_folder.load("anyres")
    start = weights(model)
    if tower_rate is None:
        for parameter in [*model.vision_tower.parameters(), *trainer.llava.vision_tower.parameters()]:
            parameter.stop_gradient = True
    model.loss(batch_of(trainer, range(8))).backward()
    gradients = {name: p.grad.numpy().astype(np.float64) for name, p in model.named_parameters() if p.grad is not None}

    def rate_of(name):
        is_projector = name.startswith(("projector.", "image_newline"))
        rate = projector_rate if is_projector else tower_rate if name.startswith("vision_tower.") else None
        return 1e-3 if rate is None else rate

    trainer.train()
    after = weights(trainer.llava)
    expected = first_step(start, gradients, rate_of, 0.1)
    assert set(expected) >= {"projector.0.weight", "image_newline", "language_model.embed_tokens.weight"}
    assert any(name.startswith("vision_tower.") for name in expected) == (tower_rate is not None)
    for name, values in expected.items():
        is_clear = np.abs(gradients[name]) > 1e-5  # the sign of the others depends on rounding
        assert is_clear.any() or name.endswith("k_proj.bias")
        difference = np.abs(after[name] - values)[is_clear]
        assert difference.max(initial=0) < 0.02 * rate_of(name), name


def test_gradients_are_clipped_to_the_norm_that_is_set(tmp_path, image_data):
    shared = {"max_steps": 1, "adam_epsilon": 1.0}  # with this epsilon a step is as long as the gradient
    moved = []
    for limit in (0.01, 0.02):
        trainer = train(settings(tmp_path, image_data, max_grad_norm=limit, **shared))
        before, after = start_weights(), weights(trainer.llava)
        moved.append(math.sqrt(sum(float(((after[n] - before[n]).astype(np.float64) ** 2).sum()) for n in before)))
    assert moved[1] / moved[0] == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("mode", ["pad", "anyres"])
def test_training_forward_is_inference_forward(mode, tmp_path, data):
    trainer = build(settings(tmp_path, data, mode))
    model = trainer.llava
    for index in range(4):
        batch = batch_of(trainer, [index])
        model.train()
        training_logits = model(batch).numpy()
        loss = model.loss(batch).item()
        model.eval()
        length = batch.token_ids.shape[1]
        reader = CachedReader(model, 1, length)
        split = length - 3  # most of it in one pass, the rest token by token, as in a chat
        with paddle.no_grad():
            embeds = model.embed(batch)
        cached = [reader.read(embeds[:, :split])]
        for at in range(split, length):
            cached.append(reader.read(embeds[:, at : at + 1]))
        np.testing.assert_allclose(np.concatenate(cached), training_logits[0, split - 1 :], atol=2e-4)
        assert loss == pytest.approx(cross_entropy(training_logits, batch.labels), rel=1e-5)


@pytest.mark.parametrize("mode", ["pad", "anyres"])
def test_loss_of_a_mixed_batch_is_that_of_its_rows(mode, tmp_path, data):
    trainer = build(settings(tmp_path, data, mode))
    for indices in ([0, 1], [3, 0], [0, 4], [2, 0, 3, 1]):
        together = trainer.llava.loss(batch_of(trainer, indices)).item()
        alone = [batch_of(trainer, [index]) for index in indices]
        counts = [int((batch.labels != -100).sum()) for batch in alone]
        losses = [trainer.llava.loss(batch).item() for batch in alone]
        assert together == pytest.approx(np.average(losses, weights=counts), rel=1e-4)


@pytest.mark.parametrize("changes", [{}, PRETRAIN_FREEZE], ids=["all", "projector"])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_rows_of_every_kind_train_in_batches_of_every_size(batch_size, changes, tmp_path, data):
    values = settings(
        tmp_path, data, "anyres", per_device_train_batch_size=batch_size, max_steps=8 // batch_size, **changes
    )
    trainer = train(values)
    assert len(trainer.recorder.losses) == 8 // batch_size and np.isfinite(trainer.recorder.losses).all()
    assert all(np.isfinite(values).all() for values in weights(trainer.llava).values())
    assert "projector.0.weight" in differing(start_weights("anyres"), weights(trainer.llava))


@pytest.mark.parametrize("changes", [{}, {"unfreeze_mm_vision_tower": True}], ids=["all", "tower"])
def test_batch_without_images_gives_the_layers_of_images_zero_gradients(changes, tmp_path, data):
    trainer = build(settings(tmp_path, data, "anyres", **changes))
    made = trainer.data_collator([trainer.train_dataset[index] for index in (0, 4)])
    loss = trainer.compute_loss(trainer.llava, made)
    assert loss.item() == trainer.llava.loss(made["batch"]).item()
    loss.backward()
    for name, parameter in trainer.llava.named_parameters():
        is_passed = name.startswith(("projector.", "image_newline", "vision_tower."))
        if not parameter.stop_gradient:
            assert (parameter.grad.abs().sum().item() == 0) == is_passed, name


def test_two_by_two_accumulated_is_a_batch_of_four(tmp_path, image_data):
    runs = []
    for batch_size, num_accumulated in ((4, 1), (2, 2)):
        values = settings(
            tmp_path,
            image_data,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=num_accumulated,
            max_steps=3,
            adam_epsilon=1e-3,  # so that rounding errors do not grow where the gradient is nearly zero
        )
        trainer = train(values)
        runs.append((trainer.recorder.losses, weights(trainer.llava)))
    assert runs[0][0] == pytest.approx(runs[1][0], rel=1e-5)
    assert len(differing(start_weights(), runs[0][1])) > 20
    for name, values in runs[0][1].items():
        np.testing.assert_allclose(runs[1][1][name], values, atol=1e-5, err_msg=name)


def test_rows_left_over_by_accumulation_do_not_leak_into_the_next_epoch(tmp_path, image_data):
    """Eight rows in batches of two, three at a time: an epoch is one step of six rows, and two rows are left."""
    shared = {"per_device_train_batch_size": 2, "adam_epsilon": 1e-3, "max_grad_norm": 0.0}
    first = train(settings(tmp_path, image_data, gradient_accumulation_steps=3, max_steps=2, **shared))
    trainer = build(settings(tmp_path, image_data, gradient_accumulation_steps=3, max_steps=2, **shared))
    batches = []
    for epoch in (0, 1):
        made = sampler(num_rows=8, seed=trainer.args.seed, epoch=epoch)
        batches.append(list(made)[:3])
    model = trainer.llava
    optimizer = paddle.optimizer.AdamW(
        1e-3,
        parameters=[parameter for parameter in model.parameters() if not parameter.stop_gradient],
        weight_decay=0.0,
        epsilon=1e-3,
        beta2=0.999,
    )
    for parts in batches:
        for indices in parts:
            (model.loss(batch_of(trainer, indices)) / 3).backward()
        optimizer.step()
        optimizer.clear_grad()
    for name, values in weights(model).items():
        np.testing.assert_allclose(weights(first.llava)[name], values, atol=1e-6, err_msg=name)


def test_recompute_gives_the_same_losses_and_weights(tmp_path, data):
    runs = [train(settings(tmp_path, data, "anyres", recompute=is_on)) for is_on in (False, True)]
    assert not runs[0].llava.language_model.enable_recompute and runs[1].llava.language_model.enable_recompute
    assert runs[0].recorder.losses == pytest.approx(runs[1].recorder.losses, rel=1e-6)
    for name, values in weights(runs[0].llava).items():
        np.testing.assert_allclose(weights(runs[1].llava)[name], values, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("mode", ["pad", "anyres"])
def test_every_checkpoint_is_a_model_folder(mode, tmp_path, data):
    trainer = train(settings(tmp_path, data, mode, save_strategy="steps", save_steps=2))
    batch = batch_of(trainer, [1, 3])
    trainer.llava.eval()
    with paddle.no_grad():
        final = trainer.llava(batch).numpy()
    for name, step in (("checkpoint-2", 2), ("checkpoint-4", 4), ("", 4)):
        folder = tmp_path / "out" / name
        model = LlavaForConditionalGeneration.from_pretrained(folder)
        assert not differing(weights(model), trainer.recorder.saved[step])
        with paddle.no_grad():  # without gradients both models encode tiles one by one
            assert (model(batch).numpy() == final).all() == (step == 4)
        processor = LlavaProcessor.from_pretrained(folder)
        assert (processor.spec, processor.template) == (trainer.processor.spec, trainer.processor.template)
        session = ChatSession(model, processor, sampling=SamplingParams(max_new_tokens=3))
        assert session.ask("What is this?", [tiny_folder.random_image(1)]) is not None


def test_run_resumes_from_the_newest_whole_checkpoint_unless_its_settings_say_otherwise(tmp_path, data):
    shared = {"max_steps": 5, "save_strategy": "steps", "save_steps": 2}
    train(settings(tmp_path, data, **{**shared, "max_steps": 4}))
    output = tmp_path / "out"
    (output / "checkpoint-4" / COMPLETE).unlink()  # as if the run had been killed while writing it
    assert last_checkpoint(output) == output / "checkpoint-2"
    again = settings(tmp_path, data, overwrite_output_dir=False, **shared)
    assert len(train(again).recorder.losses) == 3
    assert last_checkpoint(output) == output / "checkpoint-4"
    assert len(train({**again, "overwrite_output_dir": True}).recorder.losses) == 5
    assert len(train({**again, "resume_from_checkpoint": str(output / "checkpoint-2")}).recorder.losses) == 3


def test_half_written_checkpoints_are_removed_and_old_ones_rotated(tmp_path, data):
    half = tmp_path / "out" / ".checkpoint-1.partial"
    half.mkdir(parents=True)
    write_json(half / RUN, {FORMAT: 1})
    (half / "config.json").write_text("{")
    train(settings(tmp_path, data, max_steps=6, save_strategy="steps", save_steps=2, save_total_limit=2))
    assert sorted(path.name for path in (tmp_path / "out").glob("*checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]


def test_folders_without_a_whole_checkpoint_have_no_last_one(tmp_path):
    assert last_checkpoint(tmp_path / "absent") is None
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-11"):
        (tmp_path / name).mkdir()
    assert last_checkpoint(tmp_path) is None
    for name in ("checkpoint-10", "checkpoint-9"):
        (tmp_path / name / COMPLETE).touch()
        os.utime(tmp_path / name / COMPLETE, (1000, 1000))  # in the same tick of the clock
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    os.utime(tmp_path / "checkpoint-9" / COMPLETE, (2000, 2000))
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-9"


def test_result_is_the_best_model(tmp_path, data):
    values = settings(
        tmp_path,
        {},
        dataset={"train": str(data), "eval": str(data)},
        evaluation_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,  # so that the last step is not the best
        do_eval=True,
        max_steps=3,
    )
    trainer = train(values)
    best = int(np.argmax(trainer.recorder.eval_losses[:3])) + 1
    assert best < 3 and trainer.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
    assert not differing(weights(trainer.llava), trainer.recorder.saved[best])
    saved = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert not differing(weights(saved), trainer.recorder.saved[best])


def sampler(num_rows=11, batch_size=2, num_ranks=1, rank=0, seed=0, epoch=0, drop_last=False):
    made = EpochBatchSampler(
        list(range(num_rows)),
        batch_size=batch_size,
        num_replicas=num_ranks,
        rank=rank,
        drop_last=drop_last,
        seed=seed,
    )
    made.set_epoch(epoch)
    return made


def rows_of(**options):
    return [row for batch in sampler(**options) for row in batch]


def test_every_row_comes_once_an_epoch():
    assert sorted(rows_of()) == list(range(11))
    assert [len(batch) for batch in sampler()] == [2] * 5 + [1]
    assert len(sampler()) == len(list(sampler())) == 6


def test_order_follows_seed_and_epoch_alone():
    assert rows_of(seed=1, epoch=2) == rows_of(seed=1, epoch=2)
    orders = [tuple(rows_of(seed=seed, epoch=epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4 and tuple(range(11)) not in orders


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_get_the_same_number_of_rows_and_repeat_only_to_fill_up(num_ranks):
    shares = [rows_of(num_ranks=num_ranks, rank=rank) for rank in range(num_ranks)]
    num_each = math.ceil(11 / num_ranks)
    assert [len(share) for share in shares] == [num_each] * num_ranks
    together = [row for share in shares for row in share]
    assert set(together) == set(range(11)) and len(together) - 11 == num_each * num_ranks - 11
    full = [rows_of(num_rows=12, num_ranks=num_ranks, rank=rank) for rank in range(num_ranks)]
    assert sorted(row for share in full for row in share) == list(range(12))


def test_epoch_ends_with_a_whole_step_of_accumulated_batches():
    for num_accumulated, expected in ((1, 6), (2, 6), (3, 6), (4, 4), (5, 5), (6, 6), (7, 6)):
        made = EpochBatchSampler(
            range(11), batch_size=2, num_replicas=1, rank=0, drop_last=False, seed=0, num_accumulated=num_accumulated
        )
        assert len(made) == len(list(made)) == expected
        assert list(made) == list(sampler())[:expected]


def test_last_short_batch_can_be_dropped():
    assert [len(batch) for batch in sampler(drop_last=True)] == [2] * 5
    assert len(sampler(drop_last=True)) == 5


def test_more_ranks_than_rows_share_them():
    assert [len(rows_of(num_rows=2, num_ranks=5, rank=rank)) for rank in range(5)] == [1] * 5


def test_order_of_a_run_follows_its_seed(tmp_path, data):
    orders = []
    for seed in (1, 1, 2):
        made = build(settings(tmp_path, data, seed=seed))._get_train_sampler()
        orders.append([row for batch in made for row in batch])
    assert orders[0] == orders[1] != orders[2]


def test_eval_loss_is_the_mean_over_all_trained_tokens(tmp_path, data):
    values = settings(tmp_path, {}, dataset={"train": str(data), "eval": str(data)}, do_eval=True, max_steps=2)
    trainer = train(values)
    samples = [trainer.train_dataset[index] for index in range(8)]
    batch = trainer.processor.collate(samples)
    expected = cross_entropy(trainer.llava(batch).numpy(), batch.labels)
    assert trainer.recorder.eval_losses[-1] == pytest.approx(expected, rel=1e-4)
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert results["eval_loss"] == pytest.approx(expected, rel=1e-4)


def test_eval_loss_by_sample_is_the_mean_over_the_samples_own_means(tmp_path, data):
    values = settings(tmp_path, {}, dataset={"train": str(data), "eval": str(data)}, do_eval=True, max_steps=2)
    trainer = train({**values, "loss_reduction": "sample"})
    batches = [trainer.processor.collate([trainer.train_dataset[index]]) for index in range(8)]
    means = [cross_entropy(trainer.llava(batch).numpy(), batch.labels) for batch in batches]
    assert trainer.recorder.eval_losses[-1] == pytest.approx(np.mean(means), rel=1e-4)


def test_evaluation_writes_answers_for_a_person_to_read(tmp_path, data):
    changes = {"do_eval": True, "num_eval_answers": 3, "evaluation_strategy": "steps", "eval_steps": 2, "max_steps": 2}
    trainer = train(settings(tmp_path, {}, dataset={"train": str(data), "eval": str(data)}, **changes))
    lines = [json.loads(line) for line in (tmp_path / "out" / "eval_answers.jsonl").read_text().splitlines()]
    rows = json.loads(data.read_text())
    asked = [rows[0], rows[3], rows[7]]
    assert [line["step"] for line in lines] == [2] * len(lines) and len(lines) % 3 == 0
    processor = LlavaProcessor.from_pretrained(tmp_path / "out")
    session = ChatSession(trainer.llava, processor, sampling=SamplingParams(max_new_tokens=128))
    for line, row in zip(lines[-3:], asked, strict=True):
        question, expected = (turn["value"] for turn in row["conversations"][:2])
        assert line["expected"] == expected and str(rows.index(row) + 1) in line["row"]
        session.clear()
        images = [data.parent / image for image in row.get("image", [])]
        assert line["answer"] == session.ask(question.replace("<image>\n", "").replace("<image>", ""), images=images)


def test_evaluation_alone_trains_nothing(tmp_path, data):
    values = settings(tmp_path, {}, dataset={"eval": str(data)}, do_train=False, do_eval=True)
    trainer = train(values)
    assert len(trainer.recorder.eval_losses) == 1 and trainer.recorder.losses == []
    assert not differing(start_weights(), weights(trainer.llava))


def test_stage_one_trains_captions_without_a_template(tmp_path):
    captions = tiny_folder.write_captions(tmp_path / "captions", 4)
    trainer = train(settings(tmp_path, captions, max_steps=2, **PRETRAIN_FREEZE), template="plain")
    sample = trainer.train_dataset[0]
    trained = sample.token_ids[sample.labels != -100].tolist()
    assert trainer.processor.tokenizer.decode(trained) == "A red square on the left.\n"
    assert (sample.labels == -100).sum() == 1 + tiny_folder.PATCHES  # the BOS token and the image
    assert LlavaProcessor.from_pretrained(tmp_path / "out").template.name == "vicuna_v1"  # a chat uses the model's


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_name_or_path": "absent/model"}, "model 'absent/model' was not found"),
        ({"model_name_or_path": None}, "model_name_or_path is missing"),
        ({"dataset": "absent.json"}, "data file not found"),
        ({"dataset": None}, "dataset is missing"),
        ({"dataset": {"eval": []}}, "no entry under 'train'"),
        ({"resume_from_checkpoint": "absent/checkpoint-1"}, "absent/checkpoint-1"),
        ({"freeze_include": ["*"]}, "no parameter is trainable"),
        ({"conv_mode": "vicuna_v2"}, "did you mean 'vicuna_v1'"),
        ({"lora": True, "lora_target_modules": []}, "lora_target_modules is empty"),
        ({"lora": True, "lora_target_modules": ["llama.block.*"]}, "matches no layer"),
        ({"learning_rate": 0.0, "mm_projector_lr": 1e-4}, "learning_rate"),
    ],
)
def test_mistake_in_the_settings_is_one_line_and_code_1(changes, message, tmp_path, data, capsys):
    values = settings(tmp_path, data)
    values.update(changes)
    values = {key: value for key, value in values.items() if value is not None}
    (tmp_path / "run.json").write_text(json.dumps(values))
    assert main([str(tmp_path / "run.json")], script="supervised_finetune.py", template=None) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_row_that_cannot_be_read_ends_the_run_with_file_and_row(num_workers, tmp_path, capsys):
    folder = tmp_path / "data"
    rows = tiny_folder.write_rows(folder, 4, kinds="1")
    (folder / "images" / "2-0.png").write_bytes(b"not an image")
    values = settings(tmp_path, rows, dataloader_num_workers=num_workers, on_bad_sample="raise")
    (tmp_path / "run.json").write_text(json.dumps(values))
    assert main([str(tmp_path / "run.json")], script="supervised_finetune.py", template=None) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and f"{rows}, row 3" in errors[0]


def test_our_own_mistake_while_reading_is_shown_with_its_trace(tmp_path, data, monkeypatch):
    trainer = build(settings(tmp_path, data))
    monkeypatch.setattr(trainer.train_dataset, "rows", [object()] * 4)  # the collator cannot take these
    with pytest.raises(RuntimeError, match="reading the data failed:\nTraceback"):
        trainer.train()


def test_settings_are_not_changed_by_a_run(tmp_path, data):
    values = settings(tmp_path, data, max_steps=1)
    before = json.dumps(values)
    train(values)
    assert json.dumps(values) == before


def test_batches_keep_the_fields_of_the_collator(tmp_path, data):
    trainer = build(settings(tmp_path, data))
    made = trainer.data_collator([trainer.train_dataset[index] for index in (0, 3)])
    assert set(made) == {"batch", "segment_ids"}
    assert {field.name for field in dataclasses.fields(made["batch"])} >= {"pixels", "tiles_per_image", "image_sizes"}
    assert made["batch"].tiles_per_image.tolist() == [1, 1, 1] and (made["segment_ids"] >= 0).all()
