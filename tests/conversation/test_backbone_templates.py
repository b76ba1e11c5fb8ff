"""The formats of the backbones, as texts written out and, where a released tokenizer is at hand, by its own template.

Where the texts come from:
llama_3          meta-llama/Meta-Llama-3-8B-Instruct, tokenizer_config.json (chat_template), generation_config.json
qwen_2           Qwen/Qwen2-7B-Instruct, the same files (Qwen2.5 differs in its system text only)
phi_3            microsoft/Phi-3-mini-4k-instruct, the same files, July 2024 and later (with a system text)
internlm_chat    InternLM/xtuner, docs/zh_cn/user_guides/prompt_template.md; which parts are tokens: the issue 426 of
                 hiyouga/LlamaFactory and the pull request 342 of InternLM/InternLM
internlm2_chat   internlm/internlm2-chat-7b, tokenizer_config.json
gemma            google/gemma-7b-it, tokenizer_config.json; the place of the system text: google/gemma-3-4b-it
ernie            baidu/ERNIE-4.5-0.3B-PT and -Base-PT, the same files
zephyr           HuggingFaceH4/zephyr-7b-beta, tokenizer_config.json
mistral_instruct haotian-liu/LLaVA, llava/conversation.py: conv_mistral_instruct, separator style LLAMA_2
chatml_direct    haotian-liu/LLaVA, llava/conversation.py: conv_chatml_direct, separator style MPT

Templates whose licenses allow it are kept in tests/assets/chat_templates.json, with their sources, and are compared in
every run. For the others, copy the models' tokenizer_config.json to FOLDER/<name of the format>/ and set
PADDLEMIX_RELEASED_TOKENIZERS=FOLDER.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from paddlemix.conversation.messages import Conversation, Message
from paddlemix.conversation.render import render
from paddlemix.conversation.templates import get_template

KEPT = json.loads((Path(__file__).parents[1] / "assets/chat_templates.json").read_text(encoding="utf-8"))
ROUNDS = [("Hi", "Hello."), ("Who?", "Me."), ("Why?", "So.")]
SYSTEM = "Be brief."
# Three rounds without a system text.
WITHOUT = {
    "llama_3": (
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWho?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nMe.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nSo.<|eot_id|>"
    ),
    "qwen_2": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\nMe.<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>"
    ),
    "phi_3": (
        "<|user|>\nHi<|end|>\n<|assistant|>\nHello.<|end|>\n"
        "<|user|>\nWho?<|end|>\n<|assistant|>\nMe.<|end|>\n"
        "<|user|>\nWhy?<|end|>\n<|assistant|>\nSo.<|end|>"
    ),
    "internlm_chat": (
        "<|User|>:Hi<eoh>\n<|Bot|>:Hello.<eoa>\n"
        "<|User|>:Who?<eoh>\n<|Bot|>:Me.<eoa>\n"
        "<|User|>:Why?<eoh>\n<|Bot|>:So.<eoa>"
    ),
    "internlm2_chat": (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\nMe.<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>"
    ),
    "gemma": (
        "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello.<end_of_turn>\n"
        "<start_of_turn>user\nWho?<end_of_turn>\n<start_of_turn>model\nMe.<end_of_turn>\n"
        "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\nSo.<end_of_turn>"
    ),
    "ernie": (
        "<|begin_of_sentence|>User: Hi\nAssistant: Hello.<|end_of_sentence|>"
        "User: Who?\nAssistant: Me.<|end_of_sentence|>"
        "User: Why?\nAssistant: So.<|end_of_sentence|>"
    ),
    "zephyr": (
        "<|user|>\nHi</s>\n<|assistant|>\nHello.</s>\n"
        "<|user|>\nWho?</s>\n<|assistant|>\nMe.</s>\n"
        "<|user|>\nWhy?</s>\n<|assistant|>\nSo.</s>"
    ),
    "mistral_instruct": "[INST] Hi [/INST] Hello. </s>[INST] Who? [/INST] Me. </s>[INST] Why? [/INST] So. </s>",
    "chatml_direct": (
        "<|im_start|>system\nAnswer the questions.<|im_end|>"
        "<|im_start|>user\nHi<|im_end|><|im_start|>assistant\nHello.<|im_end|>"
        "<|im_start|>user\nWho?<|im_end|><|im_start|>assistant\nMe.<|im_end|>"
        "<|im_start|>user\nWhy?<|im_end|><|im_start|>assistant\nSo.<|im_end|>"
    ),
}
# With a system text: the text without one, and its replacement.
WITH = {
    "llama_3": ("", "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"),
    "qwen_2": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
        "<|im_start|>system\nBe brief.<|im_end|>\n",
    ),
    "phi_3": ("", "<|system|>\nBe brief.<|end|>\n"),
    "internlm_chat": ("", "<|System|>:Be brief.\n"),
    "internlm2_chat": ("", "<|im_start|>system\nBe brief.<|im_end|>\n"),
    "gemma": ("<start_of_turn>user\n", "<start_of_turn>user\nBe brief.\n\n"),
    "ernie": ("<|begin_of_sentence|>", "<|begin_of_sentence|>Be brief.\n"),
    "zephyr": ("", "<|system|>\nBe brief.</s>\n"),
    "mistral_instruct": ("[INST] ", "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n"),
    "chatml_direct": ("<|im_start|>system\nAnswer the questions.<|im_end|>", "<|im_start|>system\nBe brief.<|im_end|>"),
}
# The trained text of an answer, and the single tokens in it and in the rest, in order within one round.
TRAINED = dict.fromkeys(("qwen_2", "internlm2_chat", "chatml_direct"), "{}<|im_end|>")
TRAINED |= {"llama_3": "{}<|eot_id|>", "phi_3": "{}<|end|>", "internlm_chat": "{}<eoa>", "gemma": "{}<end_of_turn>"}
TRAINED |= {"ernie": "{}<|end_of_sentence|>", "zephyr": "{}</s>", "mistral_instruct": " {} </s>"}
TOKENS = {name: ["<|im_start|>", "<|im_end|>"] * 2 for name in ("qwen_2", "internlm2_chat", "chatml_direct")}
TOKENS |= {
    "llama_3": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"] * 2,
    "phi_3": ["<|user|>", "<|end|>", "<|assistant|>", "<|end|>"],
    "internlm_chat": ["<eoh>", "<eoa>"],
    "gemma": ["<start_of_turn>", "<end_of_turn>"] * 2,
    "ernie": ["<|end_of_sentence|>"],
    "zephyr": ["</s>", "</s>"],
    "mistral_instruct": ["</s>"],
}
# The tokens at the start of the first round only.
OPENING = {"ernie": ["<|begin_of_sentence|>"]}
# The end of an answer, and other stops of the released generation_config.json or the model's chat function.
STOPS = {
    "llama_3": {"<|eot_id|>", "<|end_of_text|>"},
    "qwen_2": {"<|im_end|>", "<|endoftext|>"},
    "phi_3": {"<|end|>", "<|endoftext|>", "<|assistant|>"},
    "internlm_chat": {"<eoa>", "</s>"},
    "internlm2_chat": {"<|im_end|>", "</s>"},
    "gemma": {"<end_of_turn>", "<eos>"},
    "ernie": {"<|end_of_sentence|>", "</s>"},
    "zephyr": {"</s>"},
    "mistral_instruct": {"</s>"},
    "chatml_direct": {"<|im_end|>"},
}
JINJA_OPTIONS = {"trim_blocks": True, "lstrip_blocks": True}  # as transformers renders


def messages_of(rounds, system):
    messages = [] if system is None else [Message("system", system)]
    for question, answer in rounds:
        messages += [Message("user", question), Message("assistant", answer)]
    return messages


def segments_of(name, rounds=ROUNDS, system=None):
    return render(Conversation(messages_of(rounds, system)), get_template(name))


def text_of(segments):
    return "".join(segment.text for segment in segments)


@pytest.mark.parametrize("name", WITHOUT)
def test_three_rounds_render_the_text_of_the_model(name):
    assert text_of(segments_of(name)) == WITHOUT[name]
    default, given = WITH[name]
    assert WITHOUT[name].startswith(default)
    assert text_of(segments_of(name, system=SYSTEM)) == given + WITHOUT[name].removeprefix(default)


@pytest.mark.parametrize("name", WITHOUT)
def test_prompt_ends_where_the_answer_starts(name):
    messages = messages_of(ROUNDS, None)[:-1]
    prompt = text_of(render(Conversation(messages), get_template(name), add_generation_prompt=True))
    assert prompt == WITHOUT[name].removesuffix(TRAINED[name].replace("{}", "So."))


@pytest.mark.parametrize("name", WITHOUT)
def test_answer_and_its_end_are_trained_and_nothing_else(name):
    trained = text_of(segment for segment in segments_of(name) if segment.is_trained)
    assert trained == "".join(TRAINED[name].replace("{}", answer) for _, answer in ROUNDS)


@pytest.mark.parametrize("name", WITHOUT)
def test_marks_are_tokens_only_at_their_places_in_the_format(name):
    template = get_template(name)
    typed = "".join((*template.special_tokens, *template.extra_stop_tokens, template.answer_end))
    marks = OPENING.get(name, []) + TOKENS[name] * 3
    for rounds in (ROUNDS, [(typed, typed)] * 3):
        segments = segments_of(name, rounds, system="")
        assert [segment.text for segment in segments if segment.kind == "special"] == marks
    assert text_of(segments).count(typed) == 6


@pytest.mark.parametrize("name", WITHOUT)
def test_answers_end_at_the_tokens_of_the_released_model(name):
    template = get_template(name)
    assert set(template.stop_tokens) == STOPS[name] and template.stop_tokens[0] == template.answer_end
    assert template.stop_strings == ()


def released(name):
    """Return the Jinja template and the end token of a released tokenizer, or skip."""
    folder = os.environ.get("PADDLEMIX_RELEASED_TOKENIZERS")
    path = Path(folder or "", name, "tokenizer_config.json")
    if folder and path.is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
    elif name in KEPT:
        config = KEPT[name]
    else:
        pytest.skip("the license of this model's files does not allow to keep them: see above")
    eos = config["eos_token"]
    return config["chat_template"], eos["content"] if isinstance(eos, dict) else eos


def render_released(source, eos, messages, add_generation_prompt):
    def raise_exception(message):
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(**JINJA_OPTIONS)
    environment.globals["raise_exception"] = raise_exception
    chat = [{"role": message.role, "content": message.text} for message in messages]
    return environment.from_string(source).render(
        messages=chat, bos_token="", eos_token=eos, add_generation_prompt=add_generation_prompt
    )


@pytest.mark.parametrize("system", [None, SYSTEM])
@pytest.mark.parametrize("name", sorted(set(WITHOUT) - {"internlm_chat", "mistral_instruct", "chatml_direct"}))
def test_released_template_renders_the_same(name, system):
    source, eos = released(name)
    template = get_template(name)
    messages = messages_of(ROUNDS, system)
    if name == "gemma" and system is not None:
        with pytest.raises(ValueError, match="System role not supported"):
            render_released(source, eos, messages, False)
        return
    for num_messages in range(1 + (system is not None), len(messages), 2):
        asked = messages[:num_messages]
        ours = text_of(render(Conversation(asked), template, add_generation_prompt=True))
        assert ours == render_released(source, eos, asked, True)
    # After the last answer comes the text before a next question, or in Phi-3 the end of the text.
    rest = template.turn_separator + ("<|endoftext|>" if name == "phi_3" else "")
    assert text_of(render(Conversation(messages), template)) + rest == render_released(source, eos, messages, False)
