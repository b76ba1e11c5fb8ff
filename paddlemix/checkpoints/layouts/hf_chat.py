"""A chat format as a Jinja template for transformers' processors."""

from __future__ import annotations

import json

from ...conversation.templates import IMAGE_MARKS, ChatTemplate

# Messages hold a text, or parts of type text and image. An image before a text is on a separate line, as in LLaVA.
SAID = (
    "{%- macro said(message) -%}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{- 'IMAGE\\n' -}}{%- else -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{%- endmacro -%}"
)
BLOCK = "{%- if state.text -%}{{- system_prefix + state.text + system_suffix -}}{%- endif -%}"
BODY = (
    "{%- set state = namespace(text=system, turn=0) -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{%- set state.text = said(message) -%}"
    "{%- elif message['role'] == 'user' -%}"
    "{%- if state.turn == 0 -%}{{- start -}}BEFORE{{- examples -}}{%- else -%}{{- turn_separator -}}{%- endif -%}"
    "{{- user_prefix -}}{%- if state.turn == 0 -%}WITHIN{%- endif -%}"
    "{{- said(message) + user_suffix + answer_prefix -}}{%- set state.turn = state.turn + 1 -%}"
    "{%- else -%}{{- answer_lead + said(message) + answer_tail + answer_end -}}{%- endif -%}"
    "{%- endfor -%}"
)
FIELDS = ("system", "system_prefix", "system_suffix", "turn_separator", "user_prefix", "user_suffix", "answer_prefix")
FIELDS += ("answer_lead", "answer_tail", "answer_end", "start")


def chat_template(template: ChatTemplate) -> str | None:
    """Return the Jinja text of a format, None for one that is not for chats (that of stage 1).

    A prompt always ends where the answer starts, so that `add_generation_prompt` is not needed.
    """
    if template.is_prompt_text_dropped:
        return None
    texts = {name: getattr(template, name) for name in FIELDS}
    texts["examples"] = "".join(_example(template, question, answer) for question, answer in template.examples)
    body = BODY.replace("BEFORE", "" if template.is_system_in_user else BLOCK)
    body = body.replace("WITHIN", BLOCK if template.is_system_in_user else "")
    image = "<image>".join(IMAGE_MARKS) if template.has_image_marks else "<image>"
    settings = "".join(f"{{%- set {name} = {json.dumps(text)} -%}}" for name, text in texts.items())
    return SAID.replace("IMAGE", image) + settings + body


def _example(template: ChatTemplate, question: str, answer: str) -> str:
    asked = template.user_prefix + question + template.user_suffix + template.answer_prefix
    return asked + template.answer_lead + answer + template.answer_tail + template.answer_end + template.turn_separator
