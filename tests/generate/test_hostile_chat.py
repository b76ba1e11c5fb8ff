"""A chat continues and keeps its conversation after any input, file name or answer."""

from __future__ import annotations

import io
import json
import os
import sys

import pytest
import tiny_folder

from paddlemix.commands import chat_commands
from paddlemix.commands.chat_loop import ChatLoop
from paddlemix.generate.sampling import SamplingParams
from paddlemix.generate.session import ChatSession

GREEDY = SamplingParams(max_new_tokens=3)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def parts():
    return tiny_folder.load("pad")


@pytest.fixture
def talk(parts, monkeypatch, capsys):
    """Return a function that runs a chat on lines and returns its session and its printed output."""

    def run(*lines: str, session: ChatSession | None = None) -> tuple[ChatSession, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        session = session or ChatSession(*parts, sampling=GREEDY)
        ChatLoop(session, []).run()
        output = capsys.readouterr().out
        assert output.endswith("exit...\n") and "Traceback" not in output
        return session, output

    return run


LINES = {
    "home folder of an unknown user": "/image ~nosuchuser/x.png",
    "null in an image": "/image a\x00b.png",
    "null in a file": "/save a\x00b",
    "folder": "/image {folder}",
    "fifo": "/image {folder}/fifo",
    "device": "/image /dev/zero",
    "long image": "/image " + "x" * 5000,
    "long file": "/save " + "x" * 5000,
    "file below a file": "/save {folder}/file/x",
    "file that is a folder": "/save {folder}",
    "surrogate": "What \udcff?",
    "long text": "word " * 50_000,
    "unknown": "/\x1b[31m",
    "long command": "/" + "x" * 5000,
    "bad address": "/image http://[::1",
    "bad data": "/image data:image/png;base64,%ff\udcff",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_impossible_command_is_one_error_line_and_keeps_the_conversation(line, talk, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    session, output = talk("Hello", line.format(folder=tmp_path), "Why?")
    assert [turn.question.pieces for turn in session.turns] == [("Hello",), ("Why?",)]
    lines = output.split("USER: ")[2].splitlines()
    assert len(lines) == 1 and len(lines[0]) < 600 and lines[0].isprintable(), lines


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no UTF-8")
def test_nothing_is_saved_over_the_model_or_an_image(parts, monkeypatch, capsys, tmp_path):
    image = tiny_folder.save_image(tmp_path / "a.png", 1)
    (tmp_path / "model").mkdir()
    lines = [
        f"/image {image}",
        f"/save {image}",
        f"/save {tmp_path}/model/config.json",
        "/save b/",
        "/save ~nosuchuser/b",
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    monkeypatch.chdir(tmp_path)
    before = image.read_bytes()
    ChatLoop(ChatSession(*parts, sampling=GREEDY), [], sources=[tmp_path / "model"]).run()
    assert capsys.readouterr().out.count("error: ") == 4
    assert image.read_bytes() == before and sorted(os.listdir(tmp_path)) == ["a.png", "model"]


def test_an_image_whose_name_is_no_utf8_is_taken_and_saved(talk, tmp_path):
    path = os.fsencode(tmp_path) + b"/w\xff.png"
    tiny_folder.random_image(1).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", path)
    session, output = talk(f"/image {os.fsdecode(path)}", "What?", f"/save {tmp_path}/chat.json")
    assert len(session.turns[0].images) == 1 and "(saved to " in output
    assert json.loads((tmp_path / "chat.json").read_bytes())[0]["images"] == [os.fsdecode(path)]


def test_control_c_while_an_image_is_loaded_stays_in_the_chat(talk, monkeypatch):
    def interrupted(source):
        raise KeyboardInterrupt

    monkeypatch.setattr(chat_commands, "load_image", interrupted)
    session, output = talk("Hello", "/image http://slow/x.png", "Why?")
    assert len(session.turns) == 2 and "(stopped)" in output


class Speaker(ChatSession):
    """Answers with pieces that a vocabulary could have."""

    pieces = ("\x1b", "]0;PW", "\x07 ", "\u202e", "👩‍👩‍👧 ", "می‌خ", "\x10")

    def stream(self, text, images=None, sampling=None):
        for _ in super().stream(text, images, sampling):
            pass
        self.turns[-1].sequence.text = "".join(self.pieces)
        return (piece for piece in self.pieces)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_escapes_of_an_answer_are_spelled_and_saved_as_they_are(is_terminal, parts, talk, monkeypatch, tmp_path):
    session = Speaker(*parts, sampling=GREEDY)
    if is_terminal:
        monkeypatch.setenv("NO_COLOR", "1")
        terminal = Terminal()
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"Hello\n/save {tmp_path}/chat.json\n"))
        ChatLoop(session, []).run()
        output = terminal.getvalue()
    else:
        _, output = talk("Hello", f"/save {tmp_path}/chat.json", session=session)
    last = r"\x10" if is_terminal else "\x10"  # no terminal obeys it, so that a file keeps it
    assert rf"ASSISTANT: \x1b]0;PW\x07 \u202e👩‍👩‍👧 می‌خ{last}" in output
    (saved,) = json.loads((tmp_path / "chat.json").read_text(encoding="utf-8"))
    assert saved["messages"][1]["content"] == "".join(Speaker.pieces)
