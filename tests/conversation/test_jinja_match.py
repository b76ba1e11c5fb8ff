"""Chat templates of released folders compared with the known formats: differences, and templates that do not finish."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from paddlemix.checkpoints.layouts.hf_chat import chat_template
from paddlemix.conversation.jinja_match import match_template
from paddlemix.conversation.jinja_sandbox import render_all
from paddlemix.conversation.templates import get_template

ROOT = Path(__file__).resolve().parents[2]
KEPT = json.loads((ROOT / "tests" / "assets" / "chat_templates.json").read_text(encoding="utf-8"))
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
# A template for messages of parts, as processors pass them.
PARTS = (
    "{% for message in messages %}{{ message.role.upper() }}: {% for part in message.content %}"
    "{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}{% endif %}{% endfor %}{{ ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
# Released templates, written differently.
EQUAL = {
    "llama_3": (
        "{% for m in messages %}{% set head = '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' %}"
        "{{ (bos_token if loop.first else '') + head + m.content | trim + '<|eot_id|>' }}{% endfor %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"  # also without add_generation_prompt, as released
    ),
    "gemma": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<start_of_turn>{{ 'model' if m.role == 'assistant' else 'user' }}\n{{ m.content }}<end_of_turn>\n{{ '' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    "internlm2_chat": (  # and any other ChatML without its own system text
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
}
HANGING = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "memory": "{{ 'a' * 10**10 }}",
    "recursion": "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "syntax": "{% for %}",
    "escape": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "size": "{#" + "x" * 300_000 + "#}",
}


@pytest.mark.parametrize("name", sorted(KEPT))
def test_released_template_is_recognized(name):
    tokens = {**TOKENS, "eos_token": KEPT[name]["eos_token"]}
    found = match_template(KEPT[name]["chat_template"], tokens, "vicuna_v1")
    assert (found.name, found.difference) == (name, "")


@pytest.mark.parametrize("name", ["llama_3", "gemma", "internlm2_chat"])
def test_equivalent_template_is_recognized(name):
    found = match_template(EQUAL[name], TOKENS, "vicuna_v1")
    assert (found.name, found.difference) == (name, "")


def test_preferred_format_is_chosen_from_equal_ones():
    source = EQUAL["internlm2_chat"]
    with_system = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    for preferred in ("qwen_2", "vicuna_v1"):
        assert match_template(with_system + "{{ '' }}{% endif %}" + source, TOKENS, preferred).name == "qwen_2"


def test_nearest_format_is_found_by_its_roles_and_the_difference_is_shown():
    for preferred, expected in (("mistral_instruct", "vicuna_v1"), ("llava_v1", "llava_v1")):
        found = match_template(PARTS, TOKENS, preferred)
        assert found.name == expected
        assert (
            "renders 'USER: <image>" in found.difference and f"{expected} renders 'A chat between" in found.difference
        )


@pytest.mark.parametrize("change", [("\n", " "), ("assistant", "model"), ("<|im_end|>", "<|endoftext|>")])
def test_small_differences_are_reported(change):
    source = EQUAL["internlm2_chat"].replace("loop", "").replace(*change)
    assert match_template(source, TOKENS, "internlm2_chat").difference


@pytest.mark.parametrize("kind", HANGING)
def test_template_that_needs_too_much_is_given_up(kind):
    start = time.monotonic()
    found = match_template(HANGING[kind], TOKENS, "vicuna_v1")
    assert found.name == "vicuna_v1" and found.difference
    assert time.monotonic() - start < 60


def test_rendering_equals_transformers():
    render = pytest.importorskip("transformers.utils.chat_template_utils").render_jinja_template
    source = (
        "{% for m in messages %}\n    {% if loop.index > 2 %}{% break %}{% endif %}\n  {{ m | tojson }}é"
        "{% generation %}x{% endgeneration %}\n{% endfor %}\n"
        "{{ bos_token }}{{ strftime_now('%Y') | length }}{{ unk_token }}"
    )
    messages = [{"role": "user", "content": "<Ça & 'va'>"}] * 3
    call = {"messages": messages, "add_generation_prompt": True, "tools": None, "documents": None, **TOKENS}
    [(text, reason)] = render_all(source, json.dumps([call]))
    expected = render([messages], chat_template=source, add_generation_prompt=True, **TOKENS)[0][0]
    assert (text, reason) == (expected, "")


# As LLaVA 1.6 34B's: roles and texts in ChatML without a line break between the messages.
CHATML_TIGHT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% for part in message['content'] %}"
    "{{ '<image>\n' if part['type'] == 'image' else part['text'] }}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_nearest_of_formats_with_the_same_roles_is_equal_with_a_system_text():
    found = match_template(CHATML_TIGHT, {}, "vicuna_v1")
    assert found.name == "chatml_direct" and found.difference


def test_difference_shows_two_texts_that_differ():
    phi = chat_template(get_template("phi_3")).replace("{%- set state.text = said(message) -%}", "")
    found = match_template(phi, {}, "phi_3")
    theirs, ours = found.difference.removeprefix("it renders ").split(" where phi_3 renders ")
    assert theirs != ours and "<|system|>" in ours
