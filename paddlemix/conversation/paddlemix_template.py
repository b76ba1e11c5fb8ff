"""Compare PaddleMIX's chat_template.json with the model's own template, which is the one that is used."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..json_object import read_object
from .templates import ChatTemplate

KEYS = ("system", "conversation", "query")
OPTIONS = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}  # as paddlenlp renders
_QUESTION, _ANSWER = "q7f3c1", "a9e2d4"  # texts that occur in no template


def check_chat_template(path: str | Path, template: ChatTemplate) -> list[str]:
    """Return the differences of a chat template file from the model's template, which is used instead.

    PaddleMIX's one working form, {"conversation": ["USER{{user}}", "ASSISTANT{{bot}}"]} (it adds ": " itself), does not
    count as different for a template with these roles. Raises ValueError if the file is missing or broken, or has other
    roles than the model's template.
    """
    content = _read(path)
    notices = _check_roles(path, template, content.get("conversation"))
    if content.get("query"):
        query = _render(path, "query", content["query"], query=_QUESTION)
        roles = _words(template.user_prefix), _words(template.user_suffix + template.answer_prefix)
        found = tuple(map(_words, query.partition(_QUESTION)[::2]))
        if _QUESTION not in query or found != roles:
            raise ValueError(_describe(path, template, f"its query renders {_show(query)}"))
    system = content.get("system")
    if system and _render(path, "system", system).strip() != template.system.strip():
        notices.append(f"its system text is not used: template {template.name} has {template.system!r}")
    return notices


def _read(path: str | Path) -> dict[str, Any]:
    """Return the object of the file, with its keys and types checked."""
    if not Path(path).is_file():
        raise ValueError(f"chat template file not found: {os.path.abspath(path)}")
    content = read_object(path, ValueError, f"chat template {path}")
    if set(content) - set(KEYS):
        raise ValueError(
            f"chat template {path} has {', '.join(content)}: expected an object with the keys {', '.join(KEYS)}"
        )
    rounds = content.get("conversation")
    if not (isinstance(rounds, list) and rounds and all(isinstance(part, str) for part in rounds)):
        raise ValueError(f"chat template {path}: 'conversation' is {rounds!r}, expected a list of texts")
    for key in ("system", "query"):
        if not isinstance(content.get(key), (str, type(None))):
            raise ValueError(f"chat template {path}: {key!r} is {content[key]!r}, expected a text")
    return content


def _check_roles(path: str | Path, template: ChatTemplate, rounds: list[str]) -> list[str]:
    """Compare the words before a question and before its answer with the template; see `check_chat_template`."""
    place = {"index": 1, "is_first": False, "is_last": False, "length": 3, "is_training": True}
    rendered = "".join(_render(path, "conversation", part, user=_QUESTION, bot=_ANSWER, **place) for part in rounds)
    before_question, has_question, rest = rendered.partition(_QUESTION)
    before_answer, has_answer, after = rest.partition(_ANSWER)
    if not (has_question and has_answer):
        raise ValueError(f"chat template {path}: a round needs {{{{user}}}} and then {{{{bot}}}}, found {rounds!r}")
    expected = template.user_prefix, template.user_suffix + template.answer_prefix
    if (_words(before_question), _words(before_answer)) != tuple(map(_words, expected)):
        raise ValueError(_describe(path, template, f"its rounds render {_show(rendered)}"))
    is_working_form = (before_question, before_answer, after) == (*map("".join, map(_words, expected)), "")
    if is_working_form or rendered == _template_round(template):
        return []
    return [
        f"its rounds render {_show(rendered)}; used is template {template.name}: {_show(_template_round(template))}"
    ]


def _template_round(template: ChatTemplate) -> str:
    question = template.user_prefix + _QUESTION + template.user_suffix + template.answer_prefix
    return question + template.answer_lead + _ANSWER + template.answer_tail + template.answer_end


def _describe(path: str | Path, template: ChatTemplate, found: str) -> str:
    return (
        f"chat template {path} contradicts the model: {found}, but the model uses the template {template.name}, "
        f"{_show(_template_round(template))}. Remove the file from the configuration: the model's own template is used"
    )


def _render(path: str | Path, key: str, source: str, **values: Any) -> str:
    """Return a Jinja text rendered in a sandbox; raise ValueError if it cannot be rendered."""
    try:
        return ImmutableSandboxedEnvironment(**OPTIONS).from_string(source).render(values)
    except Exception as error:  # a template can raise anything, even a division by zero
        raise ValueError(f"chat template {path}: {key!r} {source!r} cannot be rendered: {error}") from error


def _words(text: str) -> list[str]:
    """Return the words of a mark without punctuation, which name the role."""
    return re.findall(r"[^\W_]+", text)


def _show(text: str) -> str:
    """Return a rendered round, quoted, with readable placeholders for the texts."""
    return repr(text.replace(_QUESTION, "{question}").replace(_ANSWER, "{answer}"))
