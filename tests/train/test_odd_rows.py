"""Rows that once crashed runs are skipped, or refused before the first step, also with packing and grouping."""

from __future__ import annotations

import functools
import json
import socket
import threading

import numpy as np
import pytest
import tiny_folder
from data_rows import read_rows
from tiny_training import build, settings, train

from paddlemix import cli
from paddlemix.checkpoints.processor import LlavaProcessor
from paddlemix.data.bad_rows import BadRowPolicy
from paddlemix.data.dataset import ConversationDataset
from paddlemix.data.measure import Measure
from paddlemix.doctor.run_checks import diagnose
from paddlemix.train import results

TALK = '"conversations": [["Hi", "Hello."]]'
ODD = (
    f'{{"id": "deep", "x": {"[" * 30_000}{"]" * 30_000}, {TALK}}}',
    f'{{"id": {"9" * 5000}, {TALK}}}',
    '{"id": "half", "conversations": [["a \\ud83d", "b"]]}',
    f'{{"id": "user", "image": "~nosuchuser/x.png", {TALK}}}',
    f'{{"id": "long", "image": "{"x" * 5000}", {TALK}}}',
    f'{{"id": "null", "image": "a\\u0000.png", {TALK}}}',
    f'{{"id": "address", "image": "http://[::1", {TALK}}}',
    f'{{"id": "video", "video": "clip.mp4", {TALK}}}',
    "{broken",
)
KINDS = {"not_json": 3, "wrong_row": 5, "unsupported_key": 1}
SKIP = {"on_bad_sample": "skip", "max_bad_samples": 20, "max_length": 200}


@pytest.fixture
def odd(tmp_path):
    """Six good rows with the ODD rows between them, as JSON lines."""
    good = json.loads(tiny_folder.write_rows(tmp_path / "data", 6, kinds="1", is_answer_fixed=True).read_text())
    lines = [*map(json.dumps, good[:3]), *ODD, *map(json.dumps, good[3:])]
    (tmp_path / "data/odd.jsonl").write_text("\n".join(lines))
    return tmp_path / "data/odd.jsonl"


@pytest.mark.parametrize(
    "changes", [{}, {"packing": True}, {"group_by_length": True}], ids=["plain", "packed", "grouped"]
)
def test_odd_rows_are_skipped_and_counted_by_their_kind(changes, odd, tmp_path):
    train(settings(tmp_path, odd, max_steps=2, **SKIP, **changes))
    results = json.loads((tmp_path / "out/train_results.json").read_text())
    found = {key: count for key, count in results.items() if key.startswith("train_skipped_")}
    assert found == {"train_skipped_rows": 9, **{f"train_skipped_{kind}": count for kind, count in KINDS.items()}}


def test_odd_rows_are_refused_before_the_model_is_loaded_unless_they_are_skipped(odd, tmp_path, monkeypatch):
    monkeypatch.setattr("paddlemix.train.run.load_model", None)
    for policy in (None, "raise"):
        with pytest.raises(ValueError, match=r"odd\.jsonl, row 4 .*8 more rows are wrong"):
            build(settings(tmp_path, odd, on_bad_sample=policy))


def test_doctor_and_inspect_data_report_odd_rows(odd, tmp_path, capsys):
    values = settings(tmp_path, odd, packing=True)
    checks = {check.name: check for check in diagnose(values, template=None, config_folder=None, is_tried=False).checks}
    assert checks["data"].status == "FAILED" and "row 4" in checks["data"].facts[-1]
    diagnosis = diagnose({**values, **SKIP}, template=None, config_folder=None, is_tried=False)
    assert not diagnosis.has_failed
    facts = next(check for check in diagnosis.checks if check.name == "data").facts
    assert any("9 rows left out (3 not JSON, 1 unsupported key, 5 otherwise wrong)" in fact for fact in facts)
    (tmp_path / "run.json").write_text(json.dumps({**values, **SKIP}))
    assert cli.main(["inspect-data", str(tmp_path / "run.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["skipped"] == KINDS


@pytest.mark.parametrize("changes", [{}, {"packing": True}], ids=["plain", "packed"])
def test_malformed_header_of_a_server_is_an_unreadable_image(changes, tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLEMIX_CACHE", str(tmp_path / "cache"))
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:  # the test is over
                    return
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(b"HTTP/1.1 302 Moved\r\nLocation: http://[::1\r\nContent-Length: \xb2\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        path = tiny_folder.write_rows(tmp_path / "data", 4, kinds="1", is_answer_fixed=True)
        rows = json.loads(path.read_text())
        rows[1]["image"] = f"http://127.0.0.1:{server.getsockname()[1]}/a.png"
        path.write_text(json.dumps(rows))
        train(settings(tmp_path, path, max_steps=2, **SKIP, **changes))
    assert json.loads((tmp_path / "out/train_results.json").read_text())["train_skipped_unreadable_image"] == 1


@pytest.fixture
def rows_with_loss(tmp_path):
    """Two turns, the same with the first answer not trained, and the first turn alone."""
    texts = ("What is this?", "It is red.", "How many?", "Two shapes.")
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    untrained = [*messages[:1], {**messages[1], "loss": False}, *messages[2:]]
    (tmp_path / "rows.json").write_text(json.dumps([{"messages": one} for one in (messages, untrained, messages[:2])]))
    return read_rows(tmp_path / "rows.json")


def test_labels_of_an_answer_with_loss_false_are_ignored_and_its_ids_stay(rows_with_loss):
    processor = LlavaProcessor.from_pretrained(tiny_folder.folder())
    whole, sample, first = (processor.encode_to_train(row.conversation)[0] for row in rows_with_loss)
    end = len(first.token_ids)
    np.testing.assert_array_equal(sample.token_ids, whole.token_ids)
    np.testing.assert_array_equal(sample.labels, [*[-100] * end, *whole.labels[end:]])
    assert processor.decode([label for label in sample.labels if label != -100]) == "Two shapes."


def test_row_of_which_only_untrained_answers_fit_is_skipped_and_measured_as_such(rows_with_loss):
    processor = LlavaProcessor.from_pretrained(tiny_folder.folder())
    max_length = len(processor.encode_to_train(rows_with_loss[0].conversation)[0].token_ids) - 1
    encode = functools.partial(processor.encode_to_train, max_length=max_length)
    (note,) = ConversationDataset([rows_with_loss[1], rows_with_loss[2]], encode, policy=BadRowPolicy("skip"))[0].notes
    measure = Measure(processor.tokenizer, processor.template, processor.spec, max_length)
    assert note.kind == measure.row(rows_with_loss[1], {}).kind == "nothing_trained"


def test_sample_answers_ask_the_question_whose_answer_is_trained(rows_with_loss, monkeypatch):
    monkeypatch.setattr(results, "generate", lambda model, batch, sampling: [[5]])
    processor = LlavaProcessor.from_pretrained(tiny_folder.folder())
    (answer,) = results.sample_answers(None, processor, rows_with_loss[1:2], 1)
    assert (answer["question"], answer["expected"]) == ("How many?", "Two shapes.")
