"""What a line of the chat may be: a command, a path in any form, a word that ends it, text in another encoding."""

from __future__ import annotations

import dataclasses
import io
import re
import sys

import pytest
import tiny_folder

from paddlemix.commands.chat_commands import COMMANDS
from paddlemix.commands.chat_input import in_columns, proposals
from paddlemix.commands.chat_loop import ChatLoop, same_answer
from paddlemix.commands.chat_params import FIELDS, changed, shown
from paddlemix.commands.chat_paths import images_of, paths_in
from paddlemix.generate.sampling import SamplingParams
from paddlemix.generate.session import ChatSession
from paddlemix.image.errors import MissingImageError
from paddlemix.image.load import load_image
from paddlemix.terminal.typed import typed_text

GREEDY = SamplingParams(max_new_tokens=6, seed=0)


@pytest.fixture(scope="module")
def parts():
    return tiny_folder.load("pad")


@pytest.fixture
def image(tmp_path):
    return str(tiny_folder.save_image(tmp_path / "a b's.png", 1))


@pytest.fixture
def talk(parts, monkeypatch, capsys):
    """Return a function that runs a chat on lines and returns its loop and its printed output."""

    def run(*lines: str, sampling=GREEDY):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        loop = ChatLoop(ChatSession(*parts, sampling=sampling), [])
        loop.run()
        return loop, capsys.readouterr().out

    return run


def forms_of(path: str) -> list[str]:
    """Return a path as terminals and file managers write it when it is dropped or pasted."""
    escaped = path.replace(" ", "\\ ").replace("'", "\\'")
    address = "file://" + path.replace(" ", "%20").replace("'", "%27")
    return [path, f'"{path}"', "'" + path.replace("'", "'\\''") + "'", escaped, address, f"{escaped} ", f'"{address}"']


@pytest.mark.parametrize("form", range(7))
def test_dropped_quoted_and_escaped_paths_are_the_image(form, talk, image):
    text = forms_of(image)[form]
    assert paths_in(text) == [image]
    assert talk(f"/image {text}", "What?")[0].talk.sent == [image]
    assert talk(text, "What?")[0].talk.sent == [image]


def test_line_that_is_only_a_path_is_taken_as_the_image_with_a_notice(talk, image):
    loop, output = talk(image, "What?")
    assert "(taken as an image; to send the text itself, type a space before it)" in output
    assert "(1 image for the next question)" in output and len(loop.session.turns) == 1
    loop, output = talk(f" {image}")
    assert loop.talk.sent == [] and loop.session.turns[0].question.text == (f" {image}",)


def test_several_dropped_paths_are_several_images(talk, image, tmp_path):
    other = str(tiny_folder.save_image(tmp_path / "c.png", 2))
    assert talk(f'"{image}" {other}', "What?")[0].talk.sent == [image, other]


@pytest.mark.parametrize("line", ["What is a.png?", "cat", "Where's it", "a.png", "/nowhere/a.png", "~/absent.png"])
def test_other_lines_are_no_images(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat").touch()
    assert images_of(line) == []


def test_file_that_is_no_image_is_an_error_and_no_question(talk, tmp_path):
    (tmp_path / "notes.txt").write_text("text")
    loop, output = talk(f"{tmp_path}/notes.txt")
    assert "error: " in output and not loop.session.turns
    loop, output = talk("/nowhere/a.png", "absent.png")
    assert "unknown file /nowhere/a.png: see /help" in output and "unknown file absent.png" in output
    assert not loop.session.turns


@pytest.mark.parametrize("line", ["exit", "quit", "/exit", "/quit", "Exit", "QUIT  "])
def test_words_that_end_the_chat(line, talk):
    loop, output = talk("Hello", line, "never read")
    assert len(loop.session.turns) == 1 and output.endswith("exit...\n")
    assert len(talk(f" {line}")[0].session.turns) == 1


def test_regenerate_answers_again_and_the_conversation_goes_on(parts, talk):
    sampling = SamplingParams(temperature=2.0, max_new_tokens=6, seed=0)
    loop, output = talk("Hello", "/regenerate", "/regenerate", "Why?", sampling=sampling)
    answers = [line for line in output.splitlines() if "ASSISTANT: " in line]
    assert len(loop.session.turns) == 2 and len(set(answers[:3])) == 3
    assert talk("Hello", "/regenerate", "/regenerate", "Why?", sampling=sampling)[1] == output
    fresh = ChatSession(*parts, sampling=GREEDY)
    fresh.ask("Hello")
    old = fresh.turns[0].answer
    assert "".join(fresh.stream_again()) == old and len(fresh.turns) == 1


def test_regenerate_without_a_question_is_an_error_and_with_temperature_0_says_why_nothing_changes(talk):
    assert "error: there is no question yet" in talk("/regenerate")[1]
    output = talk("Hello", "/regenerate")[1]
    assert "(the same answer: temperature 0 never varies)\n" in output
    assert "(for another one: /params temperature=0.7, then /regenerate)\n" in output


@pytest.mark.parametrize(("temperature", "warmer"), [(0.0, "=0.7,"), (0.2, "=0.7,"), (0.7, "=1.0,"), (1.0, "=1.5,")])
def test_the_hint_of_the_same_answer_names_a_higher_temperature(temperature, warmer):
    lines = same_answer(temperature)
    assert warmer in lines[1] and all(len(line) <= 80 for line in lines)
    assert len(same_answer(2.0)) == 1


def test_another_answer_that_is_stopped_before_its_first_token_leaves_the_old_one(parts):
    session = ChatSession(*parts, sampling=GREEDY)
    session.ask("Hello")
    (old,) = session.turns
    session.stream_again().close()
    assert session.turns == [old]


def test_system_text_holds_for_the_conversation_so_far_too(parts, talk):
    loop, output = talk("/system Be brief.", "Hello", "/system Be long.", "Why?", "/system", "/system default")
    assert "(system text: Be brief.)" in output and output.count("(system text: Be long.)") == 2
    assert "(system text of the template: A chat between" in output
    other = ChatSession(*parts, sampling=GREEDY, system="Be brief.")
    other.ask("Hello")
    other.set_system("Be long.")
    assert other.ask("Why?") == loop.session.turns[1].answer
    begun = ChatSession(*parts, sampling=GREEDY, system="Be long.")
    begun.ask("Hello")
    assert begun.turns[0].prompt_ids == other.turns[0].prompt_ids


def test_params_are_shown_set_and_checked(talk):
    loop, output = talk("/params temperature=0.7 --top-k 3 speculate = 4", "/params")
    sampling, context = loop.session.sampling, loop.talk.context
    assert sampling == SamplingParams(temperature=0.7, top_k=3, lookup=4, max_new_tokens=6, seed=0)
    assert "\n".join(shown(sampling, FIELDS, context)) in output and output.count("temperature=0.7") == 2
    assert output.count("top_p=1.0") == 1  # what was not set is not shown until somebody asks
    assert all(len(line) <= 80 for line in output.splitlines())
    for text, expected in (
        ("temprature=1", "did you mean temperature?"),
        ("temperature", "write temperature=0.0"),
        ("temperature top_k=3", "write temperature=0.0"),
        ("warm", "unknown setting 'warm': /help lists the settings"),
        ("top_k=many", "top_k is 'many': expected a whole number"),
        ("top_p=7", "top_p is 7.0: expected a number above 0 and at most 1"),
        ("speculate=-1", "speculate is -1: expected at least 0"),
        ("max_new_tokens=0", "max_new_tokens is 0: expected at least 1"),
        (f"max_new_tokens={context + 1}", f"expected 1 to {context} (the model's context)"),
    ):
        with pytest.raises(ValueError) as error:
            changed(GREEDY, text, GREEDY, context)
        assert expected in str(error.value)


def test_params_default_brings_the_settings_of_the_start_back(talk):
    sampling = SamplingParams(temperature=0.3, max_new_tokens=6, seed=1)
    loop, output = talk("/params temperature=0.7 top_k=3", "/params default", sampling=sampling)
    assert loop.session.sampling == sampling and "top_k=0 " in output
    loop, _ = talk("/params top_k=3", "/params default seed=9", sampling=sampling)
    assert loop.session.sampling == dataclasses.replace(sampling, seed=9)


def test_commands_that_take_no_words_say_so_and_any_case_is_a_command(talk):
    loop, output = talk("Hello", "/clear now", "/regenerate 3", "/EXIT now", "/Help", "/QUIT")
    assert "error: /clear takes no words, found 'now': type /clear alone\n" in output
    assert "error: /regenerate takes no words, found '3'" in output and "/exit takes no words" in output
    assert len(loop.session.turns) == 1 and "forget the conversation" in output and "unknown" not in output
    assert not talk("Hello", "/CLEAR")[0].session.turns


def test_images_are_listed_with_where_they_are(talk, image):
    output = talk("/images", f"/image {image}", "What?", f"/image {image}", "/images")[1]
    assert "(no images: /image PATH" in output
    assert f"1. {image} (in the conversation)\n2. {image} (for the next question)" in output
    assert "px, 16 tokens in 1 tile" in output or "tokens in 1 tile" in output


def test_help_has_all_commands(talk):
    loop, output = talk("/help")
    assert set(COMMANDS) < set(loop.commands)
    for name in loop.commands:
        assert f"\n{name}" in output or f"USER: {name}" in output
    for name in FIELDS:
        assert re.search(rf"\n  {name} +(a number|at least|1 to)", output)
    assert all(len(line) < 80 for line in output.splitlines())


def test_tab_proposes_commands_settings_and_paths(tmp_path, monkeypatch):
    names = ["/image", "/images", "/params", "/quit"]
    (tmp_path / "pictures one").mkdir()
    (tmp_path / "a.png").touch()
    (tmp_path / ".hidden").touch()
    monkeypatch.chdir(tmp_path)
    assert proposals("/im", names) == ["/image ", "/images "]
    assert proposals("/IM", names) == ["/image ", "/images "]
    assert proposals("/", names) == [f"{name} " for name in names]  # and not the folders at the root of the machine
    assert proposals("/params temp", names) == ["/params temperature="]
    assert proposals("/params seed=1 top_", names) == ["/params seed=1 top_p=", "/params seed=1 top_k="]
    assert proposals("/image ", names) == ["/image a.png", "/image pictures one/"]
    assert proposals("/image pictures o", names) == ["/image pictures one/"]
    assert proposals(f"{tmp_path}/a", names) == [f"{tmp_path}/a.png"]
    assert proposals("a", names) == ["a.png"] and proposals("Describe a", names) == proposals("", names) == []


def test_proposals_stand_in_columns_of_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    assert in_columns(["a.png", "图.png", "a long name.png", "b"]) == "a.png\n图.png\na long name.png\nb"
    assert in_columns(["a.png", "图.png", "b"]) == "a.png   图.png\nb"


def test_text_that_is_not_utf8_is_named_and_chinese_in_the_posix_locale_is_read(talk):
    chinese = "你好".encode().decode("ascii", "surrogateescape")
    assert typed_text(chinese, "ascii") == "你好" and typed_text("你好", "utf-8") == "你好"
    gbk = "你好".encode("gbk").decode("utf-8", "surrogateescape")
    loop, output = talk(f"What is {gbk}?", "Hello")
    assert "(not sent: the text is not UTF-8 (byte c4 at position 9): set the terminal to UTF-8" in output
    assert len(loop.session.turns) == 1


def test_one_image_needs_no_list(parts, image, tmp_path):
    session, other = (ChatSession(*parts, sampling=GREEDY) for _ in range(2))
    assert session.ask("What?", images=image) == other.ask("What?", images=[image])
    assert session.ask("And?", images=load_image(image)) == other.ask("And?", images=(load_image(image),))
    with pytest.raises(MissingImageError, match=r"there is no image '/absent.png': check the path$"):
        session.ask("What?", images="/absent.png")
    with pytest.raises(MissingImageError, match="check the path and the image folder"):
        load_image("absent.png", folder=tmp_path)
