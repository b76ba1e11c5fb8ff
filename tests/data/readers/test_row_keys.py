"""Keys of rows and turns: used, reported once per file with their count, or refused."""

from __future__ import annotations

import logging

import pytest

from paddlemix.conversation.messages import Conversation, Message
from paddlemix.data.bad_rows import BadRowPolicy, TooManyBadRowsError
from paddlemix.data.mixture import scan_mixture
from paddlemix.data.readers.errors import BadRowError
from paddlemix.data.readers.files import read_row, scan_rows
from paddlemix.data.row_note import SKIPPED, count_kinds, in_words

QUESTION, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}
TALK = {"messages": [QUESTION, ANSWER]}
CONTENTS = {"value": "content", "from": "role"}


def marked(answer: dict, question: dict | None = None) -> dict:
    """Return a row with marks at its first question and answer, and with another, trained answer."""
    return {"messages": [{**QUESTION, **(question or {})}, {**ANSWER, **answer}, QUESTION, ANSWER]}


def kind_of(row) -> str:
    with pytest.raises(ValueError) as caught:
        read_row(row)
    assert str(caught.value).isprintable()
    return caught.value.kind if isinstance(caught.value, BadRowError) else "wrong_row"


def flags(row) -> list[bool]:
    return [message.is_trained for message in read_row(row)[0].messages if message.role == "assistant"]


@pytest.mark.parametrize(
    "mark",
    [
        {"loss": False},
        {"weight": 0},
        {"train": False},
        {"training": False},
        {"trainable": 0},
        {"include_in_loss": False},
        {"loss": 0.0},
        {"loss": "False"},
        {"loss": False, "weight": 0},
    ],
)
def test_answer_marked_as_not_trained_is_not_trained(mark):
    assert flags(marked(mark)) == [False, True]
    llava = [{"from": turn["role"], "value": turn["content"], **mark} for turn in TALK["messages"]]
    assert flags({"conversations": [*llava, {**llava[0]}, {"from": "gpt", "value": "Yes."}]}) == [False, True]


@pytest.mark.parametrize("mark", [{"loss": True}, {"weight": 1}, {"train": 1.0}, {"loss": None}, {"loss": "true"}, {}])
def test_answer_without_a_mark_or_with_a_true_one_is_trained(mark):
    assert flags(marked(mark, {"loss": None, "train": False})) == [True, True]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (marked({"weight": 0.5}), "unsupported_key"),
        (marked({"weight": -1}), "unsupported_key"),
        (marked({}, {"loss": True}), "unsupported_key"),  # a trained question
        (marked({"train_detail": [{"begin_offset": 0, "end_offset": 2, "train": True}]}), "unsupported_key"),
        ({**TALK, "weight": 0}, "unsupported_key"),  # for the whole row
        ({**TALK, "loss_scale": "last_round"}, "unsupported_key"),
        (marked({"loss": "no"}), "wrong_row"),
        (marked({"loss": []}), "wrong_row"),
        (marked({"loss": True, "train": False}), "wrong_row"),
        ({"messages": [QUESTION, {**ANSWER, "loss": False}]}, "nothing_trained"),
    ],
)
def test_unsupported_mark_is_a_bad_row(row, kind):
    assert kind_of(row) == kind


def test_untrained_answer_may_be_empty():
    assert flags(marked({"content": "", "loss": False})) == [False, True]
    assert kind_of(marked({"content": ""})) == "empty_answer"


@pytest.mark.parametrize("key", ["system", "system_prompt"])
@pytest.mark.parametrize("row", [TALK, {"conversations": [["Hi", "Yes."]]}, {"query": "Hi", "response": "Yes."}])
def test_system_text_of_a_row_is_its_system_message(key, row):
    with_turn = {"messages": [{"role": "system", "content": "Be brief."}, *TALK["messages"]]}
    assert read_row({key: "Be brief.", **row})[0] == read_row(with_turn)[0]
    assert read_row({key: None, **row}) == read_row({key: "", **row}) == read_row(TALK)
    assert read_row({key: "Be brief.", **with_turn}) == read_row(with_turn)
    assert kind_of({key: "Be long.", **with_turn}) == kind_of({key: ["Be brief."], **row}) == "wrong_row"


@pytest.mark.parametrize(
    "images",
    [
        {"image_path": "a.png"},
        {"image_paths": ["a.png"]},
        {"image": {"path": "a.png"}},
        {"image": {"url": "a.png", "path": None}},
        {"images": [{"bytes": None, "path": "a.png"}]},
        {"image": "a.png", "images": [], "image_path": None},
    ],
)
def test_image_is_read_from_every_key_and_object(images):
    assert read_row({**TALK, **images})[0].images == ("a.png",)


@pytest.mark.parametrize("path", [None, "other.png"])
def test_bytes_of_an_image_have_priority_over_its_path(path, images):
    import base64

    from paddlemix.image.load import load_image

    content = base64.b64encode((images / "b.png").read_bytes()).decode()
    (source,) = read_row({**TALK, "image": {"bytes": content, "path": path}})[0].images
    assert load_image(source).tobytes() == load_image(images / "b.png").tobytes()


REFUSED = {
    "video": "clip.mp4",
    "videos": ["clip.mp4"],
    "audio": "a.wav",
    "audios": ["a.wav"],
    "tools": "[{}]",
    "objects": {"ref": [], "bbox": [[1, 2, 3, 4]]},
    "bbox": [1, 2, 3, 4],
    "rejected_response": "No.",
    "rejected_messages": TALK["messages"],
    "chosen": ANSWER,
    "channel": "math",
    "label": False,
    "kto_tag": False,
}


@pytest.mark.parametrize("mark", [{"loss_mask": 0}, {"mask": True}, {"no_loss": True}, {"ignore": 1}, {"skip": True}])
def test_other_marks_of_untrained_turns_are_refused(mark):
    assert kind_of(marked(mark)) == "unsupported_key"
    if "loss_mask" not in mark:
        assert flags(marked(dict.fromkeys(mark, False))) == [True, True]


def test_image_path_in_the_text_is_refused():
    assert kind_of({"query": "<img>a.png</img>\nWhat is it?", "response": "A cat."}) == "unsupported_key"
    html = {"query": 'Explain <img src="a.png"> and <video>.', "response": "They are tags."}
    assert read_row(html)[0].num_marks == 0


@pytest.mark.parametrize("key", REFUSED)
def test_unsupported_key_is_a_bad_row_unless_its_value_is_empty(key):
    assert kind_of({**TALK, key: REFUSED[key]}) == "unsupported_key"
    for nothing in (None, "", [], {}, "[]"):
        assert read_row({**TALK, key: nothing}) == read_row(TALK)


def test_refused_key_with_value_false_is_reported_as_unused():
    assert read_row({**TALK, "reviewed": False})[1] == ["the key 'reviewed' of the row is not used"]


@pytest.mark.parametrize("role", ["tool", "function_call", "observation", "tool-response"])
def test_tool_turns_are_refused_as_unsupported(role):
    assert kind_of({"messages": [QUESTION, {"role": role, "content": "{}"}, ANSWER]}) == "unsupported_key"
    assert kind_of({"messages": [QUESTION, {**ANSWER, "tool_calls": [{}]}]}) == "unsupported_key"


def test_image_key_of_a_turn_and_video_part_are_refused_as_unsupported():
    assert kind_of({"messages": [{**QUESTION, "image": "a.png"}, ANSWER]}) == "unsupported_key"
    part = {"type": "video", "video": "a.mp4"}
    assert kind_of({"messages": [{"role": "user", "content": [part]}, ANSWER]}) == "unsupported_key"
    part = {"type": "image", "image": "a.png", "max_pixels": 100}
    assert kind_of({"messages": [{"role": "user", "content": [part]}, ANSWER]}) == "unsupported_key"


@pytest.mark.parametrize(
    "row",
    [
        {**TALK, "conversations": [["Hi", "Yes."]]},
        {**TALK, "query": "Hi", "response": "Yes."},
        {**TALK, "image": "a.png", "image_path": "b.png"},
        {**TALK, "image": {"url": "http://x/a.png", "path": "b.png"}},
        {"messages": [{**QUESTION, "value": "Bye"}, ANSWER]},
        {"messages": [{**QUESTION, "from": "gpt"}, ANSWER]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", "image": "a.png"}]}, ANSWER]},
        {"messages": [{"role": "user", "content": [{"type": "image", "data": "aGk="}]}, ANSWER], "image": "a.png"},
    ],
)
def test_row_with_contradicting_values_is_wrong(row):
    assert kind_of(row) == "wrong_row"


def test_unsupported_rows_are_counted_by_their_kind_and_follow_the_policy(write):
    path = write("a.json", [{**TALK, "video": "a.mp4"}, TALK, {**TALK, "tools": [{}]}])
    rows, bad = scan_mixture(str(path), "train")
    assert len(rows) == 1 and in_words(count_kinds(bad)) == "2 unsupported key"
    assert "unsupported_key" in SKIPPED
    BadRowPolicy("skip").check(bad, 3)
    with pytest.raises(TooManyBadRowsError, match="2 unsupported key"):
        BadRowPolicy("skip", 1).check(bad, 3)


def test_other_keys_are_reported_once_per_file_with_their_count(write, caplog):
    turn = {"from": "human", "value": "Hi", "mood": "good"}
    rows = [
        {**TALK, "id": 1, "source": "web", "width": 3, "foo": 1, "bar": None},
        {**TALK, "foo": {"deep": 2}},
        {"conversations": [turn, {"from": "gpt", "value": "Yes."}, turn, {"from": "gpt", "value": "Yes."}]},
        {"image": {"url": "a.png", "detail": "low"}, "conversations": [["<image>", "Yes."]]},
    ]
    with caplog.at_level(logging.WARNING):
        assert scan_rows(write("a.json", rows))[1] == []
    notices = [record.getMessage().partition("a.json: ")[2] for record in caplog.records]
    assert notices == [
        "2 of 4 rows: the key 'foo' of the row is not used",
        "1 of 4 rows: the key 'mood' of a turn is not used",
        "1 of 4 rows: the key 'detail' of an image is not used",
    ]


def test_many_different_keys_do_not_flood_the_log(write, caplog):
    with caplog.at_level(logging.WARNING):
        scan_rows(write("a.json", [{**TALK, f"key {number}": 1} for number in range(50)]))
    assert len(caplog.records) == 21 and "30 more" in caplog.text


def test_unknown_keys_beside_the_rows_are_reported(write, caplog):
    with caplog.at_level(logging.WARNING):
        assert len(scan_rows(write("a.json", {"version": 1, "image_folder": "b", "data": [TALK]}))[0]) == 1
    (record,) = caplog.records
    assert "'image_folder'" in record.getMessage() and "version" not in record.getMessage()


def talk(*texts: str, system: str | None = None, untrained: tuple[int, ...] = ()) -> tuple[Message, ...]:
    roles = ("user", "assistant") * (len(texts) // 2)
    turns = [Message(role, text, n not in untrained) for n, (role, text) in enumerate(zip(roles, texts, strict=True))]
    return ((Message("system", system),) if system else ()) + tuple(turns)


FORMS = {
    "ms-swift": (
        {"system": "S", "query": "<image>b", "response": "B", "history": [["a", "A"]], "images": ["a.png"]},
        Conversation(talk("a", "A", "<image>b", "B", system="S"), ("a.png",)),
    ),
    "ms-swift without history": ({"query": "a", "response": "A", "history": None}, Conversation(talk("a", "A"))),
    "ms-swift messages": (
        {
            "messages": [
                {"role": "user", "content": "<image><image>a"},
                {"role": "assistant", "content": "A", "loss": 0.0},
                QUESTION,
                ANSWER,
            ],
            "images": [{"bytes": None, "path": "a.png"}, {"bytes": None, "path": "b.png"}],
        },
        Conversation(talk("<image><image>a", "A", "Hi", "Yes.", untrained=(1,)), ("a.png", "b.png")),
    ),
    "ms-swift ShareGPT": (
        {"system": "S", "conversation": [{"human": "a", "assistant": "A"}, {"human": "b", "assistant": "B"}]},
        Conversation(talk("a", "A", "b", "B", system="S")),
    ),
    "Alpaca": (
        {"instruction": "a", "input": "b", "output": "B", "history": [["q", "Q"]]},
        Conversation(talk("q", "Q", "a\nb", "B")),
    ),
    "Alpaca without input": ({"instruction": "a", "input": "", "output": "A"}, Conversation(talk("a", "A"))),
    "xtuner": (
        {
            "image": "a.png",
            "conversation": [
                {"system": "S", "input": "<image>\na", "output": "A", "output_with_loss": False},
                {"system": "", "input": "b", "output": "B", "need_eos_token": True, "sep": ""},
            ],
        },
        Conversation(talk("<image>\na", "A", "b", "B", system="S", untrained=(1,)), ("a.png",)),
    ),
    "ShareGPT": (
        {"conversations": [{"from": "user", "value": "a"}, {"from": "assistant", "value": "A"}]},
        Conversation(talk("a", "A")),
    ),
    "roles in conversations": (
        {"conversations": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "A"}], "messages": None},
        Conversation(talk("a", "A")),
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_rows_of_other_projects_are_read(name):
    row, expected = FORMS[name]
    assert read_row(row) == (expected, [])


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"conversation": [{"input": "a", "output": "A", "need_eos_token": False}]}, "unsupported_key"),
        ({"conversation": [{"input": "a", "output": "A", "sep": "\n"}]}, "unsupported_key"),
        ({"conversation": [{"input": "", "output": "plain text"}]}, "wrong_row"),
        ({"conversation": [{"input": "a", "output": "A"}, {"system": "S", "input": "b", "output": "B"}]}, "wrong_row"),
        ({"conversation": [{"input": "a"}]}, "wrong_row"),
        ({"query": "a", "response": ["A", "B"]}, "wrong_row"),
        ({"query": "a", "response": None}, "wrong_row"),
        ({"response": "plain text"}, "wrong_row"),
        ({"query": "a", "response": "A", "history": "[['q', 'Q']]"}, "wrong_row"),
        ({"query": "a", "response": "A", "history": [["q", None]]}, "wrong_row"),
        ({"query": "a", "response": "A", "rejected_response": "B"}, "unsupported_key"),
    ],
)
def test_rows_of_other_projects_that_mean_something_else_are_refused(row, kind):
    assert kind_of(row) == kind
