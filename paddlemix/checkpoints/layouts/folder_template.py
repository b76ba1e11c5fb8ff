"""The chat template of a folder, in any of transformers' files, and the chat format that it stands for."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

from ...conversation.jinja_match import match_template
from ...conversation.templates import TEMPLATES, get_template
from ...conversation.tokenizer_files import CONFIG_FILE, ROLES, SPECIALS_FILE
from ...tensor_files.stored import CheckpointError
from .folder import Folder
from .hf_chat import chat_template

JINJA_FILE, JSON_FILE, PROCESSOR_FILE = "chat_template.jinja", "chat_template.json", "processor_config.json"
# NOTE: transformers uses other templates in additional_chat_templates/ only when they are asked for by name.
MORE_FILE = "additional_chat_templates/default.jinja"
MAX_BYTES = 1 << 20
DEFAULT, FROM_CONFIG = "that of its language model's family", "from config.json"


@dataclass(frozen=True)
class TemplateChoice:
    """name: of the format. source: where it comes from, in words. notice: why it may be wrong, empty if it is not."""

    name: str
    source: str
    notice: str = ""


def choose_template(folder: Folder, noted: str, default: str) -> TemplateChoice:
    """Return the chat format of a folder.

    noted: the name that this project recorded in config.json, empty for none. default: the format of its language
    model. The folder's Jinja template comes before the recorded name, which other tools ignore: if the two differ, the
    template has been changed since. Raises CheckpointError for files that cannot be read.
    """
    own = noted or default
    found = _find_source(folder)
    if found is None or not _is_known(own):
        return TemplateChoice(own, FROM_CONFIG if noted else DEFAULT)
    source, file = found
    if source in [chat_template(get_template(own, has_image_marks=has_marks)) for has_marks in (False, True)]:
        return TemplateChoice(own, f"from {file}")
    match = match_template(source, _special_tokens(folder), own)
    if match.difference:
        notice = (
            f"the chat template of {folder / file} is not a known one: {match.difference}. The format {match.name} is "
            "used instead; --conv-mode chooses another"
        )
        return TemplateChoice(match.name, f"in place of {file}, which is not a known one", notice)
    notice = ""
    if noted and get_template(noted).name != match.name:
        notice = (
            f"{folder / file} renders the format {match.name}, which is used, although config.json names {noted}; "
            "--conv-mode chooses another"
        )
    return TemplateChoice(match.name, f"from {file}", notice)


def _is_known(name: str) -> bool:
    try:
        return get_template(name).name in TEMPLATES
    except ValueError:  # reported where the format is used
        return False


def _find_source(folder: Folder) -> tuple[str, str] | None:
    """Return a folder's Jinja text and the file it is from, in the order of transformers' processors."""
    for name in (PROCESSOR_FILE, JSON_FILE, JINJA_FILE, MORE_FILE, CONFIG_FILE):
        if folder.has_any(name):
            is_jinja = name in (JINJA_FILE, MORE_FILE)
            source = _read_jinja(folder, name) if is_jinja else _default_of(folder, name)
            if source:
                return source, name
    return None


def _read_jinja(folder: Folder, name: str) -> str:
    size = (folder / name).stat().st_size
    if size > MAX_BYTES:
        raise CheckpointError(f"{folder / name} has {size:,} bytes, expected {MAX_BYTES:,} at most")
    try:
        return io.StringIO(folder.content(name).decode("utf-8"), newline=None).read()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{folder / name} is no text in UTF-8: {error}") from None


def _default_of(folder: Folder, name: str) -> str:
    """Return the template in a JSON file that applies unless another is asked for by name, empty if there is none."""
    value = folder.json(name).get("chat_template")
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(one, Mapping) for one in value):
        value = {one.get("name"): one.get("template") for one in value}
    if isinstance(value, Mapping):
        value = value.get("default", "")
    if isinstance(value, str):
        return value
    where = folder / name
    raise CheckpointError(
        f"{where}: chat_template is {str(value)[:80]}, expected a string, or strings with their names"
    )


def _special_tokens(folder: Folder) -> dict[str, str]:
    """Return the texts of the special tokens, which a template may contain, by their roles."""
    config, named = (folder.json(name) if folder.has_any(name) else {} for name in (CONFIG_FILE, SPECIALS_FILE))
    found = {}
    for role in ROLES:
        token = config[role] if role in config else named.get(role)
        text = token.get("content") if isinstance(token, Mapping) else token
        if isinstance(text, str):
            found[role] = text
    return found
