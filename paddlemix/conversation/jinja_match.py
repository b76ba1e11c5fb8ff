"""Find the known chat format of a folder's Jinja template, by rendering probe conversations."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .jinja_sandbox import render_all
from .messages import Conversation, Message
from .render import render
from .templates import TEMPLATES, ChatTemplate

SYSTEM = "Be brief, y7."
ASKED = ("What is in q1x?", "And what in q2x?")
ANSWERED = ("It is a1z.", "That is a2z.")
MARK = "<image>\n"
PYTHON = "{'type': "
SHOWN = 60  # characters around a difference


@dataclass(frozen=True)
class Match:
    """The matching format. difference: where the folder's template renders differently, empty if it does not."""

    name: str
    difference: str = ""


@dataclass(frozen=True)
class _Probe:
    """A conversation to render.

    system: with a system text. num_turns: number of questions. is_closed: with an answer to the last question.
    has_image: the first question starts with an image.
    """

    is_closed: bool
    num_turns: int = 2
    system: bool = False
    has_image: bool = True


PROBES = (_Probe(False), _Probe(True), _Probe(False, num_turns=1, has_image=False), _Probe(False, system=True))
SYSTEM_PROBE = 3


def match_template(source: str, tokens: Mapping[str, str], preferred: str) -> Match:
    """Return the known format that a Jinja template renders, or the nearest one and the difference.

    tokens: texts of special tokens by role (bos_token, ...). preferred: the format to choose from several equal ones,
    or if none is similar.
    """
    try:
        forms = _rendered(source, tokens)
    except ValueError as error:
        return Match(preferred, f"it cannot be rendered: {error}")
    names = sorted(TEMPLATES, key=lambda name: name != preferred)  # the preferred one first, the others in order
    chats = [TEMPLATES[name] for name in names if not TEMPLATES[name].is_prompt_text_dropped]
    for rendered in forms:
        for template in chats:
            if _is_equal(rendered, template, tokens):
                return Match(template.name)
    whole = [rendered for rendered in forms if rendered[0] is not None and rendered[1] is not None]
    if not whole:
        return Match(preferred, "it does not render a conversation of two turns")
    # A template for texts prints a list of parts in Python's notation.
    rendered = next((one for one in whole if _roles_of(one[1]) is not None and PYTHON not in one[0]), whole[-1])
    return _nearest(rendered, chats, tokens, preferred)


def _rendered(source: str, tokens: Mapping[str, str]) -> list[list[str | None]]:
    """Return the rendered probes, once with messages of parts (as for processors) and once with texts."""
    calls = [_call(probe, tokens, has_parts) for has_parts in (True, False) for probe in PROBES]
    texts = [text for text, _ in render_all(source, json.dumps(calls))]
    return [texts[: len(PROBES)], texts[len(PROBES) :]]


def _call(probe: _Probe, tokens: Mapping[str, str], has_parts: bool) -> dict[str, Any]:
    messages = []
    for message in _messages(probe):
        content: Any = message.text
        if has_parts:
            content = [{"type": "text", "text": message.text.removeprefix(MARK)}]
            content = [{"type": "image"}, *content] if message.num_images else content
        messages.append({"role": message.role, "content": content})
    values = {"messages": messages, "add_generation_prompt": not probe.is_closed, "tools": None, "documents": None}
    return {**values, **tokens}


def _messages(probe: _Probe) -> list[Message]:
    messages = [Message("system", SYSTEM)] if probe.system else []
    for turn, (question, answer) in enumerate(zip(ASKED[: probe.num_turns], ANSWERED, strict=False)):
        mark = MARK if probe.has_image and turn == 0 else ""
        messages += [Message("user", mark + question), Message("assistant", answer)]
    return messages if probe.is_closed else messages[:-1]


def _ours(template: ChatTemplate, probe: _Probe) -> str:
    segments = render(Conversation(_messages(probe)), template, add_generation_prompt=not probe.is_closed)
    return "".join("<image>" if segment.kind == "image" else segment.text for segment in segments)


def _is_equal(rendered: Sequence[str | None], template: ChatTemplate, tokens: Mapping[str, str]) -> bool:
    """Return whether no probe is rendered differently; a template that refuses a system text may still be equal."""
    return None not in rendered[:SYSTEM_PROBE] and _first_difference(rendered, template, tokens) is None


def _first_difference(
    rendered: Sequence[str | None], template: ChatTemplate, tokens: Mapping[str, str]
) -> tuple[str, str] | None:
    """Return the first probe that differs, as rendered by the folder's template and by this one, or None.

    A BOS in front and the text after the last answer do not count, and neither do probes that are refused.
    """
    for probe, text in zip(PROBES, rendered, strict=True):
        if text is None:
            continue
        ours = _ours(template, probe)
        theirs = _without_bos(text, ours, tokens)
        if not _is_same(theirs, ours, probe, template, tokens):
            return theirs, ours
    return None


def _is_same(text: str, ours: str, probe: _Probe, template: ChatTemplate, tokens: Mapping[str, str]) -> bool:
    """Return whether two renderings are equal, except for the text after the last answer."""
    if not probe.is_closed or not text.startswith(ours):
        return text == ours
    return text[len(ours) :].strip() in ("", tokens.get("eos_token"), template.answer_prefix.strip())


def _without_bos(text: str, ours: str, tokens: Mapping[str, str]) -> str:
    bos = tokens.get("bos_token") or ""
    return text.removeprefix(bos) if not bos or not ours.startswith(bos) else text


def _nearest(
    rendered: Sequence[str | None], chats: Sequence[ChatTemplate], tokens: Mapping[str, str], preferred: str
) -> Match:
    """Return the format with the same role names and its difference, or the preferred format if none has them.

    Of several, it is the one that is equal with a system text, else the preferred one, else the most similar.
    """
    roles = _roles_of(rendered[1])
    similar = [template for template in chats if roles is not None and roles == _roles_of(_ours(template, PROBES[1]))]

    def score(template: ChatTemplate) -> tuple[bool, bool, float]:
        text, ours = rendered[SYSTEM_PROBE], _ours(template, PROBES[SYSTEM_PROBE])
        is_same = text is not None and _without_bos(text, ours, tokens) == ours
        matcher = difflib.SequenceMatcher(None, rendered[0], _ours(template, PROBES[0]), autojunk=False)
        return is_same, template.name == preferred, matcher.ratio()

    best = max(similar, key=score) if similar else TEMPLATES[preferred]
    return Match(best.name, _difference(rendered, best, tokens))


def _roles_of(text: str) -> tuple[str, ...] | None:
    """Return the words of the role names: the last before the second question, and all before the first answer."""
    pattern = "(.*)".join(map(re.escape, (ASKED[0], ANSWERED[0], ASKED[1])))
    found = re.search(pattern, text, re.DOTALL)
    if found is None:
        return None
    before_answer, before_question = (re.findall(r"[^\W_]+", part) for part in found.groups())
    return (*before_question[-1:], "", *before_answer)


def _difference(rendered: Sequence[str | None], template: ChatTemplate, tokens: Mapping[str, str]) -> str:
    """Return the first difference in words."""
    found = _first_difference(rendered, template, tokens)
    if found is None:
        return "it refuses some conversations"
    num_equal = next((i for i, (one, other) in enumerate(zip(*found, strict=False)) if one != other), len(min(found)))
    theirs, ours = (_cut(text, max(num_equal - SHOWN // 3, 0)) for text in found)
    return f"it renders {theirs} where {template.name} renders {ours}"


def _cut(text: str, start: int) -> str:
    before, after = "..." if start else "", "..." if start + SHOWN < len(text) else ""
    return repr(f"{before}{text[start : start + SHOWN]}{after}")
