"""The chat template that a folder brings along, in any of transformers' files, and the format that is taken for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...conversation.jinja_match import match_template
from ...conversation.templates import TEMPLATES, get_template
from ...conversation.tokenizer_files import CONFIG_FILE, ROLES, SPECIALS_FILE
from ...tensor_files.stored import CheckpointError, read_json
from .hf_chat import chat_template

JINJA_FILE, JSON_FILE, PROCESSOR_FILE = "chat_template.jinja", "chat_template.json", "processor_config.json"
# NOTE: other templates in additional_chat_templates/ apply only where somebody asks for one of them by its name.
MORE_FILE = "additional_chat_templates/default.jinja"
MAX_BYTES = 1 << 20
DEFAULT, NOTED = "that of its language model's family", "from config.json"


@dataclass(frozen=True)
class TemplateChoice:
    """name: of the format. source: why this one, for people. notice: why it may be wrong, empty if it is not."""

    name: str
    source: str
    notice: str = ""


def choose_template(folder: Path, noted: str, default: str) -> TemplateChoice:
    """Return the format of a folder.

    noted: what our own note in the folder names, empty for none. default: what its language model has otherwise. What
    other tools would use, the folder's Jinja template, goes before the note, which they do not know: where the two
    differ, somebody has changed the template since. Raises CheckpointError for files that cannot be read.
    """
    own = noted or default
    found = _find_source(folder)
    if found is None or not _is_known(own):
        return TemplateChoice(own, NOTED if noted else DEFAULT)
    source, file = found
    if source == chat_template(get_template(own)):
        return TemplateChoice(own, f"from {file}")
    match = match_template(source, _special_tokens(folder), own)
    if match.difference:
        notice = (
            f"the chat template of {folder / file} is none that is known here: {match.difference}. The format "
            f"{match.name} is used instead; --conv-mode names another"
        )
        return TemplateChoice(match.name, f"in place of {file}, which is none that is known", notice)
    notice = ""
    if noted and get_template(noted).name != match.name:
        notice = (
            f"{folder / file} renders the format {match.name}, which is used, although config.json notes {noted}; "
            "--conv-mode names another"
        )
    return TemplateChoice(match.name, f"from {file}", notice)


def _is_known(name: str) -> bool:
    try:
        return get_template(name).name in TEMPLATES
    except ValueError:  # told where the format is used
        return False


def _find_source(folder: Path) -> tuple[str, str] | None:
    """Return a folder's Jinja text and the file it is from, in the order of transformers' processors."""
    for name in (PROCESSOR_FILE, JSON_FILE, JINJA_FILE, MORE_FILE, CONFIG_FILE):
        path = folder / name
        if path.is_file():
            source = (
                _read_jinja(path)
                if name in (JINJA_FILE, MORE_FILE)
                else _default_of(_read(path).get("chat_template"), path)
            )
            if source:
                return source, name
    return None


def _read_jinja(path: Path) -> str:
    if path.stat().st_size > MAX_BYTES:
        raise CheckpointError(f"{path} has {path.stat().st_size:,} bytes, expected {MAX_BYTES:,} at most")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is no text in UTF-8: {error}") from None


def _default_of(value: Any, where: Path) -> str:
    """Return the template that applies where none is asked for by name, empty if there is none."""
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(one, Mapping) for one in value):
        value = {one.get("name"): one.get("template") for one in value}
    if isinstance(value, Mapping):
        value = value.get("default", "")
    if isinstance(value, str):
        return value
    raise CheckpointError(f"{where}: chat_template is {str(value)[:80]}, expected a text, or texts with their names")


def _special_tokens(folder: Path) -> dict[str, str]:
    """Return the texts of the special tokens, which a template may put in, by their roles."""
    config, named = _read(folder / CONFIG_FILE), _read(folder / SPECIALS_FILE)
    found = {}
    for role in ROLES:
        token = config[role] if role in config else named.get(role)
        text = token.get("content") if isinstance(token, Mapping) else token
        if isinstance(text, str):
            found[role] = text
    return found


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
