"""PaddleMIX's chat_template.json, compared with the model's own template."""

from __future__ import annotations

import json

import pytest

from paddlemix.conversation.paddlemix_template import check_chat_template
from paddlemix.conversation.templates import get_template

WORKING = ["USER{{user}}", "ASSISTANT{{bot}}"]


@pytest.fixture
def write(tmp_path):
    def write_file(content):
        path = tmp_path / "chat_template.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write_file


@pytest.mark.parametrize("name", ["vicuna_v1", "llava_v1"])
def test_paddlemix_working_form_is_accepted_silently(name, write):
    assert check_chat_template(write({"conversation": WORKING}), get_template(name)) == []
    assert check_chat_template(write({"conversation": WORKING, "system": None, "query": ""}), get_template(name)) == []


def test_templates_own_round_is_accepted_silently(write):
    rounds = ["<|im_start|>user\n{{user}}<|im_end|>", "<|im_start|>assistant\n{{bot}}<|im_end|>"]
    assert check_chat_template(write({"conversation": rounds}), get_template("chatml_direct")) == []


def test_same_roles_written_differently_are_reported(write):
    rounds = ["{% if is_first %}[first]{% endif %}USER: {{user}} ", "ASSISTANT: {{bot}}</s>\n"]
    (notice,) = check_chat_template(write({"conversation": rounds}), get_template("v1"))
    assert "'USER: {question} ASSISTANT: {answer}</s>\\n'; used is template vicuna_v1" in notice
    (notice,) = check_chat_template(write({"conversation": WORKING, "system": "Be brief."}), get_template("v1"))
    assert 'system text is not used: template vicuna_v1 has "A chat between' in notice


@pytest.mark.parametrize(
    "content",
    [
        {"conversation": ["Human: {{user}}", "Assistant: {{bot}}"]},
        {"conversation": ["[INST] {{user}} [/INST]", "{{bot}}"]},
        {"conversation": WORKING, "query": "Human: {{query}} Assistant:"},
    ],
)
def test_other_roles_are_refused_with_the_models_template(content, write):
    message = "contradicts the model: .*vicuna_v1, 'USER: {question} ASSISTANT: {answer}</s>'. Remove the file"
    with pytest.raises(ValueError, match=message):
        check_chat_template(write(content), get_template("vicuna_v1"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ([], "holds a JSON list, expected an object"),
        ({"conversation": WORKING, "suffix": ""}, "has conversation, suffix: expected an object with the keys"),
        ({"system": "x"}, "'conversation' is None, expected a list"),
        ({"conversation": WORKING, "query": 3}, "'query' is 3, expected a text"),
        ({"conversation": ["USER{{user}"]}, "cannot be rendered"),
        ({"conversation": ["{{1/0}}"]}, "cannot be rendered: division by zero"),
        ({"conversation": ["USER{{user}}"]}, "a round needs {{user}} and then {{bot}}"),
        ({"conversation": ["{{user.__class__.__mro__}}{{bot}}"]}, "cannot be rendered|a round needs"),
    ],
)
def test_broken_file_is_refused(content, message, write):
    with pytest.raises(ValueError, match=message):
        check_chat_template(write(content), get_template("vicuna_v1"))


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"chat template file not found: .*absent\.json"):
        check_chat_template(tmp_path / "absent.json", get_template("vicuna_v1"))
