"""Which chat format a folder gets: its own Jinja template in any of transformers' files, our note, or the default."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny_folder

from paddlemix import LlavaProcessor
from paddlemix.checkpoints.compose import Choices, compose
from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.inspection import inspect
from paddlemix.checkpoints.layouts.folder import Folder
from paddlemix.checkpoints.layouts.folder_template import choose_template
from paddlemix.checkpoints.source import read_config
from paddlemix.commands.inspect import as_text
from paddlemix.tensor_files.stored import CheckpointError

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
UNKNOWN = "{% for m in messages %}{{ m.role }} says {{ m.content }}{% endfor %}"


def write_template(folder, name: str, template) -> None:
    """Write a template into one of the files that may hold one."""
    path = folder / name
    if name.endswith(".jinja"):
        path.write_text(template)
        return
    values = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**values, "chat_template": template}))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the tiny model in foreign layouts, without their own template or a note of ours."""
    folder = tmp_path_factory.mktemp("layouts")
    for layout in ("hf", "official", "xtuner"):
        convert(tiny_folder.folder("pad"), folder / layout, layout)
        for name in ("config.json", "projector/config.json"):
            path = folder / layout / name
            if path.is_file():
                values = json.loads(path.read_text())
                values.get("paddlemix", {}).pop("template", None)
                path.write_text(json.dumps(values))
        (folder / layout / "chat_template.json").unlink(missing_ok=True)
        path = folder / layout / "tokenizer_config.json"
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "chat_template"}))
    return folder


@pytest.fixture
def folder(made, tmp_path, request):
    shutil.copytree(made / getattr(request, "param", "hf"), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("folder", ["hf", "official", "xtuner"], indirect=True)
@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json"])
def test_equal_template_is_taken_in_every_layout(folder, name, caplog):
    assert read_config(folder).template == "vicuna_v1"
    write_template(folder, name, ZEPHYR)
    assert read_config(folder).template == "zephyr"
    LlavaProcessor.from_pretrained(folder)
    assert not caplog.records
    assert f"zephyr (from {name})" in as_text(inspect(folder))


def test_language_model_to_compose_with_brings_its_template(made, tmp_path, caplog):
    shutil.copytree(made / "xtuner", tmp_path / "language")
    for number, (template, expected, num_notices) in enumerate(((ZEPHYR, "zephyr", 0), (UNKNOWN, "vicuna_v1", 1))):
        write_template(tmp_path / "language", "tokenizer_config.json", template)
        caplog.clear()
        parts = tmp_path / "language", made / "official", tmp_path / str(number)
        assert compose(*parts, Choices()).template == expected
        assert len(caplog.records) == num_notices
    assert compose(*parts[:2], tmp_path / "chosen", Choices(template="llava_v1")).template == "llava_v1"


def test_files_count_in_the_order_of_transformers_processors(folder):
    named = [{"name": "tool_use", "template": UNKNOWN}, {"name": "default", "template": ZEPHYR}]
    write_template(folder, "tokenizer_config.json", named)
    assert choose_template(Folder(folder), "", "vicuna_v1").name == "zephyr"
    write_template(folder, "chat_template.jinja", CHATML)
    assert choose_template(Folder(folder), "", "vicuna_v1").name == "internlm2_chat"
    write_template(folder, "chat_template.json", ZEPHYR)
    assert choose_template(Folder(folder), "", "vicuna_v1").name == "zephyr"
    write_template(folder, "processor_config.json", CHATML)
    assert choose_template(Folder(folder), "", "vicuna_v1").name == "internlm2_chat"


def test_templates_that_are_used_only_on_request_are_no_default(folder):
    (folder / "additional_chat_templates").mkdir()
    write_template(folder, "additional_chat_templates/rag.jinja", ZEPHYR)
    write_template(folder, "tokenizer_config.json", [{"name": "tool_use", "template": ZEPHYR}])
    assert choose_template(Folder(folder), "", "vicuna_v1").name == "vicuna_v1"


def test_unknown_template_gives_a_notice_with_the_format_that_is_used(folder, tmp_path, caplog):
    write_template(folder, "chat_template.jinja", UNKNOWN)
    LlavaProcessor.from_pretrained(folder)
    [message] = [record.getMessage() for record in caplog.records]
    assert "chat_template.jinja is not a known one" in message
    assert "The format vicuna_v1 is used instead; --conv-mode chooses another" in message and "\n" not in message
    report = convert(folder, tmp_path / "out", "paddle").text()
    assert "The format vicuna_v1 is used instead" in report
    text = as_text(inspect(folder))
    assert "vicuna_v1 (in place of chat_template.jinja, which is not a known one)" in text
    assert "note: the chat template of" in text


def test_changed_template_overrides_our_note(folder):
    assert choose_template(Folder(folder), "llava_v1", "vicuna_v1").name == "llava_v1"
    write_template(folder, "chat_template.jinja", ZEPHYR)
    found = choose_template(Folder(folder), "llava_v1", "vicuna_v1")
    assert found.name == "zephyr" and "although config.json names llava_v1" in found.notice
    write_template(folder, "chat_template.jinja", UNKNOWN)
    found = choose_template(Folder(folder), "llava_v1", "vicuna_v1")
    assert found.name == "llava_v1" and "not a known one" in found.notice


@pytest.mark.parametrize("value", [3, [3], {"default": [1]}])
def test_value_that_is_no_template_is_refused(folder, value):
    write_template(folder, "processor_config.json", value)
    with pytest.raises(CheckpointError, match=r"processor_config\.json: chat_template is .*, expected a string"):
        choose_template(Folder(folder), "", "vicuna_v1")


def test_template_that_is_named_default_in_the_folder_of_more_counts_as_in_transformers(tmp_path):
    (tmp_path / "additional_chat_templates").mkdir()
    write_template(tmp_path, "additional_chat_templates/default.jinja", ZEPHYR)
    assert choose_template(Folder(tmp_path), "", "vicuna_v1").name == "zephyr"
