"""`paddlemix inspect-data`: its numbers, errors and HTML page."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tiny_folder
from data_rows import read_mixture
from PIL import Image

from paddlemix import cli
from paddlemix.checkpoints.processor import LlavaProcessor
from paddlemix.commands.data_report import aligned
from paddlemix.commands.report_html import tile_uris, tokens_html
from paddlemix.train.loader import EpochBatchSampler
from paddlemix.train.settings import DataSettings

ROOT = Path(__file__).resolve().parents[2]
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects the elements of a page and checks that they are closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open += [] if tag in VOID else [tag]

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if "style" not in self.open else ""


@pytest.fixture
def no_environment(monkeypatch):
    monkeypatch.setattr(cli, "prepare_environment", lambda device: {})  # it would stay set in later tests


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model folder without its weights."""
    folder = tmp_path_factory.mktemp("model") / "anyres"
    shutil.copytree(tiny_folder.folder("anyres"), folder)
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture
def config(tmp_path, model):
    """Return a function that writes a configuration for rows and returns its path."""

    def write(rows_path: Path, **changes) -> str:
        values = {"model_name_or_path": str(model), "dataset": {"train": [{"data_files": str(rows_path)}]}}
        path = tmp_path / "run.json"
        path.write_text(json.dumps({**values, "output_dir": "out", "max_length": 300, **changes}))
        return str(path)

    return write


@pytest.fixture
def rows_path(tmp_path):
    return tiny_folder.write_rows(tmp_path / "data", 12)


@pytest.fixture
def run(no_environment, capsys):
    """Return a function that runs the command and returns (code, output, errors)."""

    def call(*words):
        code = cli.main(["inspect-data", *map(str, words)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return code, captured.out, [line for line in captured.err.splitlines() if line.startswith("error: ")]

    return call


def test_json_numbers_equal_those_of_the_encoded_rows(run, config, rows_path, model):
    code, output, _ = run(config(rows_path), "--json")
    found = json.loads(output)
    processor = LlavaProcessor.from_pretrained(model)
    rows = read_mixture(str(rows_path), "train")
    samples = [processor.encode_to_train(row.conversation, folders=row.folders, max_length=300) for row in rows]
    assert code == 0 and found["num_rows"] == found["num_used"] == 12 and found["problems"] == []
    assert found["num_tokens"] == sum(len(sample.token_ids) for sample, _ in samples)
    assert found["num_trained"] == sum(int((sample.labels != -100).sum()) for sample, _ in samples)
    assert found["files"][0]["num_cut"] == sum(num_dropped > 0 for _, num_dropped in samples) > 0
    assert found["images"]["num_found"] == sum(len(row.conversation.images) for row in rows)
    assert found["lengths"]["max"] > 300 and found["template"] == "vicuna_v1"


def test_flags_override_the_file_as_in_training(run, config, rows_path):
    words = ["--max_length", "200", "--per_device_train_batch_size=5", "--conv_mode", "plain", "--json"]
    code, output, _ = run(config(rows_path), *words)
    found = json.loads(output)
    assert code == 0 and (found["max_length"], found["template"], found["steps"]) == (200, "plain", 3)
    dataset = json.dumps({"train": [{"data_files": str(rows_path)}]})
    model = json.loads(Path(config(rows_path)).read_text())["model_name_or_path"]
    assert run("--model_name_or_path", model, "--dataset", dataset)[0] == 0


def test_split_is_the_one_that_a_run_reads_first(run, config, rows_path):
    both = {"train": str(rows_path), "eval": str(rows_path)}
    for changes, split in (({}, "train"), ({"do_train": False, "do_eval": True}, "eval"), ({"do_eval": True}, "eval")):
        code, output, _ = run(config(rows_path, dataset=both, **changes), "--json")
        assert code == 0 and json.loads(output)["split"] == split


def test_stage_1_uses_the_plain_template(run, config, rows_path):
    assert json.loads(run(config(rows_path), "--json", "--stage", "pretrain")[1])["template"] == "plain"


@pytest.mark.parametrize("is_dropped", [False, True])
@pytest.mark.parametrize("num_processes", [1, 3])
@pytest.mark.parametrize(("batch_size", "num_accumulated"), [(1, 1), (4, 2), (8, 3), (7, 50)])
def test_steps_equal_those_of_the_sampler(batch_size, num_accumulated, num_processes, is_dropped):
    for num_rows in (1, 29, 100):
        sampler = EpochBatchSampler(
            range(num_rows),
            batch_size=batch_size,
            num_replicas=num_processes,
            rank=0,
            drop_last=is_dropped,
            seed=0,
            num_accumulated=num_accumulated,
        )
        expected = max(len(sampler) // num_accumulated, 1)
        settings = DataSettings(
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=num_accumulated,
            num_train_epochs=2.5,
            dataloader_drop_last=is_dropped,
        )
        assert settings.steps(num_rows, num_processes) == (expected, int(expected * 2.5))
        assert dataclasses.replace(settings, max_steps=7).steps(num_rows, num_processes)[1] == 7


def test_text_has_rows_images_lengths_and_steps(run, config, rows_path):
    code, output, _ = run(config(rows_path, num_train_epochs=3), "--mixtoken", "true")
    assert code == 0
    for words in ("12, of which 12 can be used", "18 found, 0 missing", "median", "over max_length 300", "first fit"):
        assert words in output, words


def change(rows_path, **rows):
    values = json.loads(rows_path.read_text())
    for name, kind in rows.items():
        row = values[int(name[1:]) - 1]
        if kind == "role":
            row["conversations"][0]["from"] = "robot"
        else:
            row["image"][0] = "none.png"
    rows_path.write_text(json.dumps(values))


def test_bad_rows_and_missing_images_are_counted_and_listed(run, config, rows_path):
    change(rows_path, r3="role", r6="missing")
    code, output, errors = run(config(rows_path, on_bad_sample="skip"), "--json")
    found = json.loads(output)
    assert code == 0 and not errors
    assert found["skipped"] == {"wrong_role": 1, "missing_image": 1} and found["num_used"] == 10
    assert [(bad["row"], bad["kind"]) for bad in found["bad_rows"]] == [(3, "wrong_role"), (6, "missing_image")]


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("role", {}, "row 3: turn 1 of 'conversations': unknown role 'robot'"),
        ("missing", {"on_bad_sample": "raise"}, "row 3: image 'none.png' not found"),
        ("missing", {"max_bad_samples": 0}, "max_bad_samples allows 0"),
    ],
)
def test_error_is_the_reason_why_training_would_stop(run, config, rows_path, kind, changes, expected):
    change(rows_path, r3=kind)
    code, output, errors = run(config(rows_path, **changes))
    assert code == 1 and len(errors) == 1 and "training would stop" in errors[0] and expected in errors[0]
    assert "problems" in output and "can be used" in output


def test_mistakes_of_the_split_that_is_not_shown_stop_training_too(run, config, rows_path, tmp_path):
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps([{"conversations": [["Hi", 3]]}]))
    template = {"data_files": str(rows_path), "chat_template": "none.json"}
    for dataset, expected in [
        ({"train": str(rows_path)}, ["evaluation_strategy is 'epoch', but the dataset has no entry under 'eval'"]),
        ({"train": str(rows_path), "eval": "val.json"}, ["dataset 'eval', entry 1: data file not found"]),
        ({"train": str(rows_path), "eval": str(wrong)}, ["wrong.json"]),
        ({"train": template, "eval": template}, ["dataset 'train', entry 1: chat_template", "dataset 'eval', entry 1"]),
    ]:
        code, output, errors = run(config(rows_path, dataset=dataset, evaluation_strategy="epoch"), "--json")
        found = json.loads(output)
        assert code == 1 and len(errors) == 1 and expected[0] in errors[0]
        assert found["num_used"] == 12  # the rows of the split that is shown are checked all the same
        assert len(found["problems"]) == len(expected)
        assert all(text in problem for text, problem in zip(expected, found["problems"], strict=True))


def test_all_missing_files_are_in_one_error(run, config, rows_path):
    dataset = {"train": [{"data_files": "a.json"}], "eval": [{"data_files": "b.json"}]}
    code, output, errors = run(config(rows_path, dataset=dataset, evaluation_strategy="epoch"))
    assert code == 1 and not output and "has 2 mistakes" in errors[0]


def test_file_without_trained_tokens_is_refused(run, config, rows_path, tmp_path):
    other = tmp_path / "long.json"
    other.write_text(json.dumps([{"conversations": [["Hi " * 300, "Hello."]]}] * 2))
    dataset = [{"data_files": str(rows_path)}, {"data_files": str(other)}]
    code, _, errors = run(config(rows_path, dataset=dataset))
    assert code == 1 and len(errors) == 1
    assert f"{other}: 0% of its tokens are trained" in errors[0] and "2 too long" in errors[0]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "name a configuration"),
        (["absent.json"], "absent.json does not exist"),
        (["CONFIG", "--samples", "-1"], "--samples is -1"),
        (["CONFIG", "--workers", "100000"], "--workers is 100000: expected at least 1 and at most 256"),
        (["CONFIG", "--html", "none/report.html"], "does not exist"),
        (["CONFIG", "--max_length", "many"], "max_length is 'many'"),
        (["CONFIG", "--split", "eval"], "no rows for 'eval'"),
        (["CONFIG", "--do_train", "false"], "nothing would be done"),
        (["CONFIG", "--max_length", "1000000000000"], "at most 4,194,304"),
        (["CONFIG", "--model_name_or_path", "absent/model/x/y/z"], "absent/model"),
        (["--max_length", "5"], "model_name_or_path is missing"),
    ],
)
def test_mistake_is_one_line_and_code_1(run, config, rows_path, words, expected, tmp_path, monkeypatch):
    path = config(rows_path)
    monkeypatch.chdir(tmp_path)
    code, _, errors = run(*(path if word == "CONFIG" else word for word in words))
    assert code == 1 and len(errors) == 1 and expected in errors[0]


def test_settings_are_refused_by_commands_without_settings(no_environment, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["inspect", "folder", "--max_length", "5"])
    assert stopped.value.code == 2 and "unknown option --max_length" in capsys.readouterr().err


def test_page_is_valid_and_self_contained(run, config, rows_path, tmp_path):
    page_path = tmp_path / "report.html"
    assert run(config(rows_path), "--html", page_path, "--samples", "4")[0] == 0
    page = Page(page_path.read_text(encoding="utf-8"))
    tags = [tag for tag, _ in page.elements]
    assert tags.count("h3") == 4 and "svg" in tags and "rect" in tags and "script" not in tags and "link" not in tags
    for _, attributes in page.elements:
        for key in ("src", "href"):
            assert attributes.get(key, "data:").startswith("data:image/jpeg;base64,") or key not in attributes
    assert "url(" not in page_path.read_text() and "http" not in page_path.read_text()


def test_page_never_replaces_a_file_that_is_read(run, config, rows_path, model):
    path = config(rows_path)
    for place in (path, rows_path, Path(model) / "report.html", "report/"):
        code, _, errors = run(path, "--html", place)
        assert code == 1 and len(errors) == 1 and ("choose another path" in errors[0] or "name" in errors[0])
    json.loads(rows_path.read_text())


def test_same_seed_shows_the_same_rows(run, config, rows_path, tmp_path):
    pages = []
    for seed in (1, 1, 2):
        run(config(rows_path), "--html", tmp_path / "report.html", "--samples", "3", "--seed", seed)
        pages.append((tmp_path / "report.html").read_text())
    assert pages[0] == pages[1] != pages[2]


def sample_of(model, question, answer, image=None):
    from paddlemix import Conversation, Message

    images = [] if image is None else [image]
    talk = Conversation([Message.typed(question, len(images)), Message("assistant", (answer,))], images)
    return LlavaProcessor.from_pretrained(model).encode_to_train(talk)[0]


NASTY = "<script>alert('&amp;\"')</script></s> 你好 😀\n\x00 x"


def test_tokens_are_escaped_and_exactly_the_trained_ones_are_colored(model):
    tokenizer = LlavaProcessor.from_pretrained(model).tokenizer
    sample = sample_of(model, NASTY, NASTY, tiny_folder.random_image(1))
    text = tokens_html(sample, tokenizer)
    assert "<script" not in text and "\x00" not in text
    page = Page(text)
    spans = [attributes for tag, attributes in page.elements if tag == "span"]
    images = [span for span in spans if span.get("class") == "p"]
    tokens = [span for span in spans if "title" in span]
    ids = [int(span["title"]) for span in tokens]
    assert len(images) == 1 and ids == [token_id for token_id in sample.token_ids.tolist() if token_id != -200]
    trained = [int(span["title"]) for span in tokens if span.get("class") == "t"]
    assert trained == [label for label in sample.labels.tolist() if label != -100]
    assert page.text.count("<script>alert('&amp;\"')</script></s>") == 2 and "\\x00" in page.text


def test_page_shows_the_tiles_that_the_model_gets(model):
    processor = LlavaProcessor.from_pretrained(model)
    image = Image.new("RGB", (56, 28), (200, 40, 90))
    (image,) = sample_of(model, "What?", "A colour.", image).images
    tiles = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
        for uri in tile_uris(image, processor.spec)
    ]
    assert len(tiles) == len(image.pixels) == 3
    for tile in tiles:
        assert tile.shape == (28, 28, 3) and np.abs(tile.astype(int) - (200, 40, 90)).max() <= 4


def test_command_loads_no_paddle_and_its_help_nothing_heavy(config, rows_path, tmp_path):
    probe = "import sys; from paddlemix.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    probe += "print('loaded', sorted({'paddle', 'paddlenlp', 'torch', 'numpy', 'requests'} & set(sys.modules)))"

    def loaded(*words):
        done = subprocess.run([sys.executable, "-c", probe, *words], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return re.findall(r"loaded (.*)", done.stdout)[-1]

    assert loaded("inspect-data", "--help") == "[]"
    page = str(tmp_path / "report.html")
    assert "paddle" not in loaded("inspect-data", config(rows_path), "--html", page) and Path(page).is_file()


def test_columns_stand_under_each_other_with_chinese_names():
    lines = aligned(["file", "#rows"], [["数据.json", "7"], ["data/a.json", "12"]])
    assert lines == ["  file         rows", "  数据.json       7", "  data/a.json    12"]
