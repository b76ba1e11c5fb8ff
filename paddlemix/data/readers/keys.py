"""The keys of a row, a turn, a part and an image: what is read, what changes nothing, and what is refused.

Any other key passes, and is told once a file: annotators put whatever they like into their rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...foreign_json import KeyRules
from ...foreign_json import check_keys as check_foreign_keys
from .errors import UnsupportedKeyError
from .fields import show

CONVERSATION_KEYS = (
    "conversations",
    "conversation",
    "messages",
    *("query", "response", "history"),
    *("instruction", "input", "output"),
)  # where a row may hold what is said
IMAGE_KEYS = ("image", "images", "image_path", "image_paths", "image_url", "image_urls", "image_file", "image_files")
SYSTEM_KEYS = ("system", "system_prompt")
# Whether an answer is trained: ms-swift and xtuner, OpenAI, Axolotl, xtuner's own turns, and others' words for it.
TRAINED_KEYS = ("loss", "weight", "train", "output_with_loss", "training", "trainable", "is_trained", "is_training")
TRAINED_KEYS += ("train_on", "do_train", "include_in_loss", "compute_loss", "calculate_loss", "supervise", "supervised")
# The other way round: refused if they say that something is not trained.
UNTRAINED_KEYS = ("mask", "masked", "no_loss", "ignore", "skip")

_RANKED = [f"{which}_{key}" for which in ("rejected", "positive", "negative") for key in ("messages", "images")]
# Key -> what it is of. Whoever wrote it expects training to do something that it does not do.
REFUSED = {
    **dict.fromkeys(("video", "videos", "video_path", "video_paths", "video_url", "video_file"), "videos"),
    **dict.fromkeys(("audio", "audios", "audio_path", "audio_paths", "audio_url", "input_audio"), "sounds"),
    **dict.fromkeys(("tools", "functions", "tool_calls", "tool_call_id", "function_call", "tool"), "tool calls"),
    **dict.fromkeys(("objects", "bbox", "bboxes", "masks"), "objects with places in the image"),
    **dict.fromkeys(("rejected_response", "rejected", "chosen", "kto_tag", "margin", *_RANKED), "preferences"),
    **dict.fromkeys(("loss_scale", "loss_weight", "loss_mask", "channel"), "losses of its own"),
    **dict.fromkeys(UNTRAINED_KEYS, 'marks of what is not trained by this name ("loss": false does it)'),
    **dict.fromkeys(("train_detail", "training_detail"), "parts of an answer that are trained"),
    **dict.fromkeys(("reasoning_content", "thinking"), "thoughts beside an answer"),
    **dict.fromkeys(("min_pixels", "max_pixels", "resized_width", "resized_height"), "sizes of its own for an image"),
    "chat_template_kwargs": "settings of a chat template",
}
LABEL = "label"  # true or false is KTO's mark of a good or bad answer; other labels are notes of an annotator

_NOTES = ("id", "idx", "index", "uid", "uuid", "sample_id", "question_id", "image_id", "source", "data_source")
_NOTES += ("dataset", "dataset_name", "task", "task_type", "category", "type", "split", "model", "metadata", "meta")
_NOTES += ("width", "height", "width_list", "height_list", "length", "language", "lang", "license", "timestamp", "date")
INERT = frozenset(_NOTES)

ROW = KeyRules(frozenset((*IMAGE_KEYS, *SYSTEM_KEYS, *TRAINED_KEYS)), INERT)
_OF_ROWS = dict.fromkeys((*IMAGE_KEYS, *SYSTEM_KEYS), (None, "", []))  # are not looked for in a turn
TURN = KeyRules(frozenset(("from", "role", "value", "content", *TRAINED_KEYS)), INERT, _OF_ROWS)
# xtuner's need_eos_token and sep change what stands after an answer; a template decides that here.
EXCHANGE = KeyRules(
    frozenset(("input", "human", "user", "query", "output", "assistant", "gpt", "response", "system", *TRAINED_KEYS)),
    INERT,
    {**_OF_ROWS, "need_eos_token": (True, None), "sep": ("", None)},
)
IMAGE = KeyRules(frozenset(("url", "path", "bytes")), INERT | {"format", "mime_type", "size"})
PART_IMAGE_KEYS = ("image_url", "image", "url", "path", "bytes")  # where a part may name its image
PART = KeyRules(frozenset(("type", "text", *PART_IMAGE_KEYS)), INERT)

# Whose the keys are, in an error; the keys; their rules; what has them, in a notice.
Stated = tuple[str, Mapping[str, Any], KeyRules, str]


def unused_keys(stated: Iterable[Stated]) -> list[str]:
    """Return a notice for each key that is not used. Raises UnsupportedKeyError for a refused one, with its value."""
    notices = []
    for owner, values, rules, name in stated:
        if values.keys() <= rules.used:
            continue
        held = {key: values[key] for key in rules.held if key in values and key not in rules.used}
        check_foreign_keys(held, rules, owner, UnsupportedKeyError)
        for key, value in values.items():
            if key in rules.used or key in rules.inert or key in held or is_empty(value):
                continue
            _refuse(key, value, owner)
            notices.append(f"the key {show_key(key)} of {name} is not used")
    return list(dict.fromkeys(notices))


def is_empty(value: Any) -> bool:
    """Tell whether a value says nothing: null, or an empty text, list or object, also as the text of one."""
    return value is None or value in ("", [], {}, "[]", "{}", "null")


def stated_keys(values: Mapping[str, Any], keys: tuple[str, ...]) -> list[str]:
    """Return those of the keys that say something."""
    return [key for key in keys if not is_empty(values.get(key))]


def show_key(key: str) -> str:
    """Return a key for a message, shortened."""
    return repr(key) if len(key) <= 80 else f"{key[:80]!r}..."


def _refuse(key: str, value: Any, owner: str) -> None:
    what = REFUSED.get(key)
    if key in UNTRAINED_KEYS and not value:
        return
    if key == LABEL and isinstance(value, bool):
        what = "preferences"
    if what:
        raise UnsupportedKeyError(
            f"{owner} has {key!r}, {show(value)}: {what} are not supported; remove the key where the row is right "
            "without it"
        )
