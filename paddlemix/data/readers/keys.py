"""The keys of a row, a turn, a part and an image: which are read, which have no effect, and which are refused.

Any other key is allowed, with one notice per file: annotators add all kinds of keys to their rows.
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
)  # where a row may have its conversation
IMAGE_KEYS = ("image", "images", "image_path", "image_paths", "image_url", "image_urls", "image_file", "image_files")
SYSTEM_KEYS = ("system", "system_prompt")
# Whether an answer is trained, in ms-swift and xtuner, OpenAI, Axolotl, xtuner's own turns, and elsewhere.
TRAINED_KEYS = ("loss", "weight", "train", "output_with_loss", "training", "trainable", "is_trained", "is_training")
TRAINED_KEYS += ("train_on", "do_train", "include_in_loss", "compute_loss", "calculate_loss", "supervise", "supervised")
# The opposite, which is refused if its value is true.
UNTRAINED_KEYS = ("mask", "masked", "no_loss", "ignore", "skip")

_RANKED = [f"{which}_{key}" for which in ("rejected", "positive", "negative") for key in ("messages", "images")]
# Key -> what it is about. Its author expects something of training that is not supported.
REFUSED = {
    **dict.fromkeys(("video", "videos", "video_path", "video_paths", "video_url", "video_file"), "videos"),
    **dict.fromkeys(("audio", "audios", "audio_path", "audio_paths", "audio_url", "input_audio"), "sounds"),
    **dict.fromkeys(("tools", "functions", "tool_calls", "tool_call_id", "function_call", "tool"), "tool calls"),
    **dict.fromkeys(("objects", "bbox", "bboxes", "masks"), "objects with positions in the image"),
    **dict.fromkeys(("rejected_response", "rejected", "chosen", "kto_tag", "margin", *_RANKED), "preferences"),
    **dict.fromkeys(("loss_scale", "loss_weight", "loss_mask", "channel"), "separate losses"),
    **dict.fromkeys(UNTRAINED_KEYS, 'marks of untrained turns by this name (use "loss": false)'),
    **dict.fromkeys(("train_detail", "training_detail"), "partly trained answers"),
    **dict.fromkeys(("reasoning_content", "thinking"), "thoughts beside an answer"),
    **dict.fromkeys(("min_pixels", "max_pixels", "resized_width", "resized_height"), "image sizes per row"),
    "chat_template_kwargs": "settings of a chat template",
}
IMAGE_HINT = "; did you mean 'image'?"
ENDINGS = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")  # of images, in lower case
MAX_KEYS = 5  # unknown keys that an error names
LABEL = "label"  # KTO marks good and bad answers with true and false; other labels are notes of an annotator

_NOTES = ("id", "idx", "index", "uid", "uuid", "sample_id", "question_id", "image_id", "source", "data_source")
_NOTES += ("dataset", "dataset_name", "task", "task_type", "category", "type", "split", "model", "metadata", "meta")
_NOTES += ("width", "height", "width_list", "height_list", "length", "language", "lang", "license", "timestamp", "date")
INERT = frozenset(_NOTES)

ROW = KeyRules(frozenset((*IMAGE_KEYS, *SYSTEM_KEYS, *TRAINED_KEYS)), INERT)
_OF_ROWS = dict.fromkeys((*IMAGE_KEYS, *SYSTEM_KEYS), (None, "", []))  # not read in a turn
TURN = KeyRules(frozenset(("from", "role", "value", "content", *TRAINED_KEYS)), INERT, _OF_ROWS)
# xtuner's need_eos_token and sep change the end of an answer, which the template decides here.
EXCHANGE = KeyRules(
    frozenset(("input", "human", "user", "query", "output", "assistant", "gpt", "response", "system", *TRAINED_KEYS)),
    INERT,
    {**_OF_ROWS, "need_eos_token": (True, None), "sep": ("", None)},
)
IMAGE = KeyRules(frozenset(("url", "path", "bytes")), INERT | {"format", "mime_type", "size"})
PART_IMAGE_KEYS = ("image_url", "image", "url", "path", "bytes")  # where a part may name its image
PART = KeyRules(frozenset(("type", "text", *PART_IMAGE_KEYS)), INERT)

# Owner of the keys for an error; the keys and values; their rules; kind of owner for a notice.
Stated = tuple[str, Mapping[str, Any], KeyRules, str]


def unused_keys(stated: Iterable[Stated]) -> list[str]:
    """Return a notice for each unused key. Raises UnsupportedKeyError for a refused key, with its value."""
    notices = []
    for owner, values, rules, name in stated:
        if values.keys() <= rules.used:
            continue
        restricted = {key: values[key] for key in rules.fixed if key in values and key not in rules.used}
        check_foreign_keys(restricted, rules, owner, UnsupportedKeyError)
        for key, value in values.items():
            if key in rules.used or key in rules.inert or key in restricted or is_empty(value):
                continue
            _refuse(key, value, owner)
            hint = IMAGE_HINT if rules.used >= ROW.used and names_images(value) and not has_images(values) else ""
            notices.append(f"the key {show(key, with_type=False)} of {name} is not used{hint}")
    return list(dict.fromkeys(notices))


def image_key_hint(row: Mapping[str, Any], rules: KeyRules) -> str:
    """Return the end of an error about missing images: the unknown key of the row that may name them, "" for none."""
    unknown = [key for key, one in row.items() if key not in rules.used | rules.inert and not is_empty(one)]
    likely = [key for key in unknown if names_images(row[key])] or unknown
    if not likely:
        return ""
    names = ", ".join(show(key, with_type=False) for key in likely[:MAX_KEYS])
    return f"; the row has the unknown key{'s' if len(likely) > 1 else ''} {names}{IMAGE_HINT}"


def names_images(value: Any) -> bool:
    """Return whether a value looks like the path of an image, or like a list of them."""
    values = value if isinstance(value, list) and value else [value]
    return all(isinstance(one, str) and one.lower().endswith(ENDINGS) for one in values)


def has_images(row: Mapping[str, Any]) -> bool:
    """Return whether a row states images under a known key."""
    return bool(stated_keys(row, IMAGE_KEYS))


def is_empty(value: Any) -> bool:
    """Return whether a value is empty: null, an empty text, list or object, or a text that spells one."""
    return value is None or value in ("", [], {}, "[]", "{}", "null")


def stated_keys(values: Mapping[str, Any], keys: tuple[str, ...]) -> list[str]:
    """Return the keys whose values are not empty."""
    return [key for key in keys if not is_empty(values.get(key))]


def _refuse(key: str, value: Any, owner: str) -> None:
    what = REFUSED.get(key)
    if key in UNTRAINED_KEYS and not value:
        return
    if key == LABEL and isinstance(value, bool):
        what = "preferences"
    if what:
        raise UnsupportedKeyError(
            f"{owner} has {key!r}, {show(value)}: {what} are not supported; remove the key if the row is correct "
            "without it"
        )
