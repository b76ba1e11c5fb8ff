"""`paddlemix chat`: questions from a terminal or a pipe, its commands and its options."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tiny_folder

from paddlemix import cli
from paddlemix.cli import main
from paddlemix.commands.chat_commands import COMMANDS
from paddlemix.commands.chat_loop import ChatLoop
from paddlemix.generate.sampling import SamplingParams
from paddlemix.generate.session import ChatSession

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "paddlemix/examples/llava/run_predict_multiround.py")
GREEDY = SamplingParams(max_new_tokens=6)


@pytest.fixture(scope="module")
def parts():
    return tiny_folder.load("pad")


@pytest.fixture
def image(tmp_path):
    return str(tiny_folder.save_image(tmp_path / "a.png", 1))


@pytest.fixture
def type_lines(monkeypatch):
    """Return a function that sets the lines of standard input."""
    return lambda *lines: monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in lines)))


@pytest.fixture
def run_chat(type_lines, capsys, monkeypatch):
    """Return a function that runs `paddlemix chat` on lines of input and returns (code, output, errors)."""
    monkeypatch.setattr(cli, "prepare_environment", lambda device: {})  # it would stay set in later tests

    def run(*lines, options=(), model=None):
        type_lines(*lines)
        folder = str(model or tiny_folder.folder("pad"))
        code = main(["chat", "--model-path", folder, "--device", "cpu", "--max-new-tokens", "6", *options])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return code, captured.out, captured.err

    return run


def answers_of(output):
    return [line.removeprefix("ASSISTANT: ") for line in output.splitlines() if line.startswith("ASSISTANT: ")]


def environment():
    """Return the environment for a process that finds the package and computes on the CPU."""
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return {**kept, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}


def test_script_answers_piped_questions_as_the_session_does(parts, image, tmp_path):
    options = ["--model-path", str(tiny_folder.folder("pad")), "--image-file", image, "--fp16", "--device", "cpu"]
    options += ["--temperature", "0", "--max-new-tokens", "6", "--debug"]
    questions = "What is this?\nAnd \u4f60\u597d?\n"
    done = subprocess.run(
        [sys.executable, SCRIPT, *options],
        input=questions.encode(),
        capture_output=True,
        env=environment(),
        cwd=tmp_path,
        timeout=600,
    )
    output, errors = done.stdout.decode(), done.stderr.decode()
    session = ChatSession(*parts, sampling=GREEDY)
    expected = [session.ask("What is this?", [image]), session.ask("And \u4f60\u597d?")]
    assert done.returncode == 0 and "Traceback" not in errors
    assert "USER: What is this?" in output and output.endswith("exit...\n")
    for answer in expected:
        assert f"ASSISTANT: {answer}\n" in output
        assert repr({"outputs": answer})[1:] in output
    assert "<s>A chat between" in output and "USER: <image>\\nWhat is this? ASSISTANT:" in output
    assert "</s>USER: And \u4f60\u597d? ASSISTANT:" in output
    assert errors.count("float16") == 1 and "using float32" in errors


def test_command_without_a_model_folder_is_one_line(tmp_path):
    command = [sys.executable, "-m", "paddlemix.cli", "chat", "--model-path", str(tmp_path / "absent")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=600)
    assert done.returncode == 1 and done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if "ccache" not in line and "warnings.warn" not in line]
    assert len(lines) == 1 and lines[0].startswith("error: model folder") and "absent" in lines[0]


def test_image_of_a_command_is_sent_with_the_next_question(parts, run_chat, image):
    code, output, _ = run_chat(f"/image {image}", "What is this?", "Why?", "", options=["--temperature", "0"])
    session = ChatSession(*parts, sampling=GREEDY)
    assert code == 0 and answers_of(output) == [session.ask("What is this?", [image]), session.ask("Why?")]
    assert "(1 image for the next question)" in output


def test_query_prints_one_answer_and_nothing_else(parts, run_chat, image, tmp_path):
    other = str(tiny_folder.save_image(tmp_path / "b.png", 2))
    options = ["--temperature", "0", "--query", "What is this?", "--image-file", image, "--image-file", other]
    code, output, errors = run_chat("never read", options=options)
    assert code == 0
    assert output == ChatSession(*parts, sampling=GREEDY).ask("What is this?", [image, other]) + "\n"
    assert errors.splitlines()[-1] == "(cut at --max-new-tokens)"


def test_sampled_query_equals_the_first_turn_of_a_chat(run_chat):
    options = ["--temperature", "1.0", "--seed", "5"]
    answer = run_chat(options=[*options, "--query", "Hello"])[1]
    assert answers_of(run_chat("Hello", options=options)[1]) == [answer.rstrip("\n")]


def test_empty_query_or_a_missing_image_is_an_error(run_chat):
    assert run_chat(options=["--query", " "])[0] == 1
    code, output, errors = run_chat(options=["--query", "What?", "--image-file", "/absent.png"])
    assert code == 1 and output == "" and "/absent.png" in errors


def test_question_that_is_too_long_gets_advice_that_fits(run_chat):
    text = "word " * tiny_folder.CONTEXT
    code, output, errors = run_chat(options=["--query", text])
    assert code == 1 and output == "" and "shorten the question" in errors and "/clear" not in errors
    assert "(not sent: " in (typed := run_chat(text)[1]) and ": /clear starts again)" in typed


def test_images_of_options_and_commands_add_up(parts, run_chat, image, tmp_path):
    other = str(tiny_folder.save_image(tmp_path / "b.png", 2))
    options = ["--temperature", "0", "--image-file", image]
    _, output, _ = run_chat(f"/image {other}", "Compare.", options=options)
    expected = ChatSession(*parts, sampling=GREEDY).ask("Compare.", [image, other])
    assert answers_of(output) == [expected] and "(2 images for the next question)" in output


def test_sampled_chat_can_be_repeated_and_seeds_differ(run_chat):
    runs = [run_chat("Hello", "Why?", options=["--temperature", "1.0", "--seed", seed])[1] for seed in "112"]
    assert runs[0] == runs[1] != runs[2]


def test_speculating_chat_gives_the_same_answers(run_chat, image):
    outputs = [
        run_chat(f"/image {image}", "What is this?", "What is this?", options=["--temperature", "0.7", *options])[1]
        for options in ([], ["--speculate", "4"])
    ]
    assert outputs[0] == outputs[1] and len(answers_of(outputs[0])) == 2


def test_clear_forgets_the_conversation_and_pending_images(run_chat, image):
    options = ["--temperature", "0"]
    _, output, _ = run_chat("Hello", f"/image {image}", "/clear", "Hello", options=options)
    first, second = answers_of(output)
    assert first == second


def test_save_writes_the_conversation_as_json(run_chat, image, tmp_path):
    file = tmp_path / "new" / "chat.json"
    _, output, _ = run_chat(f"/image {image}", "What is this?", f"/save {file}", options=["--temperature", "0"])
    saved = json.loads(file.read_text())
    messages = [
        {"role": "user", "content": "<image>\nWhat is this?"},
        {"role": "assistant", "content": answers_of(output)[0]},
    ]
    assert saved == [{"messages": messages, "images": [image]}] and f"(saved to {file})\n" in output


def test_save_overwrites_nothing_and_saves_no_empty_conversation(run_chat, image, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(image).parent)
    file = tmp_path / "chat.json"
    lines = [f"/save {file}", f"/image {Path(image).name}", "Hello", f"/save {file}", "Again", f"/save {file}"]
    _, output, _ = run_chat(*lines)
    assert "nothing to save yet" in output and f"{file} exists already: choose another name" in output
    (saved,) = json.loads(file.read_text())
    assert len(saved["messages"]) == 2 and saved["images"] == [image]


def test_saved_conversation_is_a_row_to_train_on(parts, run_chat, image, tmp_path):
    from data_rows import read_mixture

    file = tmp_path / "chat.json"
    run_chat(f"/image {image}", "What is this?", f"/save {file}", options=["--temperature", "0"])
    (row,) = read_mixture(str(file), "train")
    assert (parts[1].encode(row.conversation).token_ids == -200).sum() == tiny_folder.PATCHES


@pytest.mark.parametrize(
    "line, expected",
    [
        ("/image", "/image needs a path"),
        ("/image absent.png", "error: "),
        ("/save", "/save needs a file name"),
        ("/imgae a.png", "unknown command /imgae"),
        ("/help", "/clear"),
    ],
)
def test_mistake_in_a_command_is_reported_and_the_chat_continues(line, expected, run_chat):
    code, output, _ = run_chat(line, "Hello")
    assert code == 0 and expected in output and len(answers_of(output)) == 1


def test_a_file_that_cannot_be_written_is_reported(run_chat):
    _, output, _ = run_chat("Hello", "/save /proc/absent/chat.json")
    assert "error: /proc/absent/chat.json cannot be written" in output


def test_corrupt_image_of_a_command_is_reported_and_the_chat_continues(run_chat, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    code, output, _ = run_chat(f"/image {tmp_path / 'broken.png'}", "Hello")
    assert code == 0 and "error: " in output and len(answers_of(output)) == 1


def test_deleted_image_is_reported_and_the_chat_continues(run_chat, image, monkeypatch):
    real = COMMANDS["/image"]

    def add_and_delete(talk, path):
        yield from real.run(talk, path)
        os.unlink(path)

    monkeypatch.setitem(COMMANDS, "/image", real._replace(run=add_and_delete))
    code, output, _ = run_chat(f"/image {image}", "What is this?", "/clear", "Hello")
    assert code == 0 and "(not sent: " in output and len(answers_of(output)) == 1


@pytest.mark.parametrize("lines", [("",), ("   ",), (), ("Hello", "")])
def test_empty_line_and_end_of_input_leave(lines, run_chat):
    code, output, _ = run_chat(*lines, *(["never read"] if lines else []))
    assert code == 0 and output.endswith("exit...\n") and "never read" not in output


def test_full_context_is_reported_and_the_chat_continues(run_chat):
    code, output, _ = run_chat("word " * tiny_folder.CONTEXT, "Hello")
    assert code == 0 and "(not sent: " in output and len(answers_of(output)) == 1


def test_cut_answer_is_reported(run_chat):
    assert "(cut at --max-new-tokens)" in run_chat("Hello", options=["--temperature", "0"])[1]


@pytest.mark.parametrize(
    "options, expected",
    [
        (["--conv-mode", "vicuna_v2"], "did you mean 'vicuna_v1'?"),
        (["--image-file", "absent.png"], "absent.png"),
        (["--device", "npu"], "device 'npu' is not there: this machine has cpu"),
        (["--device", "gpu"], "device 'gpu' is not there"),
        (["--device", "tpu"], "check the name"),
        (["--temperature", "-1"], "temperature is -1.0: expected a number of at least 0"),
        (["--max-new-tokens", "0"], "max_new_tokens is 0"),
    ],
)
def test_wrong_option_is_one_line_and_code_1(options, expected, run_chat):
    import paddle

    if paddle.is_compiled_with_cuda() or "npu" in paddle.device.get_all_custom_device_type():
        pytest.skip("this machine has another device than the CPU")
    code, output, errors = run_chat("Hello", options=options)
    assert code == 1 and output == ""
    assert errors.startswith("error: ") and errors.count("\n") == 1 and expected in errors


def test_corrupt_image_of_an_option_is_one_line(run_chat, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    code, _, errors = run_chat("Hello", options=["--image-file", str(tmp_path / "broken.png")])
    assert code == 1 and errors.startswith("error: ") and "broken.png" in errors


def test_wrong_template_is_an_error_before_the_model_is_loaded(run_chat, monkeypatch):
    from paddlemix.checkpoints import load

    monkeypatch.setattr(load, "load_model", lambda *args, **options: pytest.fail("loaded"))
    assert run_chat("Hello", options=["--conv-mode", "vicuna_v2"])[0] == 1


def test_template_option_changes_the_prompt(run_chat):
    options = ["--conv-mode", "llava_v0", "--debug", "--temperature", "0"]
    assert "###Human: Hello###Assistant:" in run_chat("Hello", options=options)[1]


def test_weights_that_are_not_finite_are_one_line(run_chat, tmp_path):
    model, processor = tiny_folder.load("pad")
    model.language_model.norm.weight.set_value(model.language_model.norm.weight * float("nan"))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    code, _, errors = run_chat("Hello", model=tmp_path)
    assert code == 1 and errors.startswith("error: ") and "not finite" in errors


def test_closed_output_ends_the_chat_without_a_message(tmp_path):
    options = ["--model-path", str(tiny_folder.folder("pad")), "--device", "cpu"]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as output:
        done = subprocess.run(
            [sys.executable, SCRIPT, *options],
            input=b"/help\n",
            stdout=output,
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=600,
        )
    assert done.returncode == 1
    assert not [line for line in done.stderr.decode().splitlines() if "error" in line.lower() or "Traceback" in line]


def test_interruption_while_loading_prints_no_traceback(run_chat, monkeypatch):
    def interrupted(loop):
        raise KeyboardInterrupt

    monkeypatch.setattr(ChatLoop, "run", interrupted)
    assert run_chat("Hello")[0] == 130


class InterruptedSession(ChatSession):
    """Raises KeyboardInterrupt once, after num_pieces pieces; -1: before the answer is started."""

    num_pieces = 0

    def stream(self, text, images=None, sampling=None):
        if text != "Stop me":
            return super().stream(text, images, sampling)
        if self.num_pieces < 0:
            raise KeyboardInterrupt
        return self._interrupted(super().stream(text, images, sampling))

    def _interrupted(self, pieces):
        for _ in range(self.num_pieces):
            yield next(pieces)
        pieces.close()
        raise KeyboardInterrupt


@pytest.mark.parametrize("num_pieces", [-1, 0, 2])
def test_chat_continues_after_an_interrupted_answer(num_pieces, parts, type_lines, capsys, image):
    session = InterruptedSession(*parts, sampling=GREEDY)
    session.num_pieces = num_pieces
    loop = ChatLoop(session, [image])
    type_lines("Stop me", "Hello")
    loop.run()
    output = capsys.readouterr().out
    expected = ChatSession(*parts, sampling=GREEDY)
    if num_pieces <= 0:  # undone, so that its image is sent with the next question
        assert [turn["content"] for turn in session.messages][::2] == ["<image>\nHello"]
        assert session.turns[-1].answer == expected.ask("Hello", [image])
    else:
        assert len(session.turns) == 2 and session.turns[0].finish_reason == "interrupted"
        stream = expected.stream("Stop me", [image])
        assert session.turns[0].answer == "".join(next(stream) for _ in range(num_pieces))
        stream.close()
        assert session.turns[1].answer == expected.ask("Hello")
        assert " (stopped)" in output
    assert loop.talk.sent == [image] and output.endswith("exit...\n")


def test_interruption_at_the_prompt_stays_in_the_chat(parts, monkeypatch, capsys):
    lines = iter([KeyboardInterrupt, "Hello", EOFError])

    def typed(prompt):
        line = next(lines)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", typed)
    ChatLoop(ChatSession(*parts, sampling=GREEDY), []).run()
    output = capsys.readouterr().out
    assert "(an empty line quits)" in output and "ASSISTANT: " in output and output.endswith("exit...\n")


class Terminal:
    """A program in a pseudo-terminal that records the pieces of its output."""

    def __init__(self, command, cache):
        spawn = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
        self.process = subprocess.Popen(
            [sys.executable, "-c", spawn, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment(), "PADDLEMIX_CACHE": str(cache), "TERM": "xterm"},
        )
        self.pieces = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        while piece := os.read(self.process.stdout.fileno(), 65536):
            self.pieces.append(piece)

    @property
    def text(self):
        return b"".join(self.pieces).decode(errors="replace").replace("\r\n", "\n")

    def type(self, keys):
        self.process.stdin.write(keys)
        self.process.stdin.flush()

    def wait_for(self, text, num=1, seconds=300):
        end = time.monotonic() + seconds
        while self.text.count(text) < num:
            is_alive = self.process.poll() is None
            assert is_alive and time.monotonic() < end, f"no {text!r} in {self.text!r}"
            time.sleep(0.01)

    def close(self):
        self.process.kill()
        self.process.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_answer_streams_into_a_terminal_and_control_c_stops_it(tmp_path, image):
    folder = str(tiny_folder.folder("pad"))
    options = ["--model-path", folder, "--image-file", image, "--device", "cpu", "--temperature", "0"]
    terminal = Terminal([sys.executable, SCRIPT, *options, "--max-new-tokens", "300"], tmp_path)
    try:
        terminal.wait_for("USER: ")
        assert "/help lists the commands" in terminal.text and f" loading {folder}" in terminal.text
        assert f"model     {folder} (float32 on cpu)\ntemplate  vicuna_v1\nimage     {image}: " in terminal.text
        terminal.type(b"/regen\t")
        terminal.wait_for("/regenerate ")
        terminal.type(b"\x15")  # Ctrl-U erases the line
        terminal.type(b"Hello\n")
        terminal.wait_for("ASSISTANT: ")
        num_before = len(terminal.pieces)
        terminal.wait_for("USER: ", num=2)
        assert len(terminal.pieces) - num_before > 10  # the answer was streamed
        terminal.type(b"Go on\n")
        terminal.wait_for("ASSISTANT: ", num=2)
        terminal.type(b"\x03")
        terminal.wait_for(" (stopped)")
        terminal.wait_for("USER: ", num=3)
        terminal.type(b"\n")
        assert terminal.process.wait(timeout=600) == 0
        assert terminal.text.rstrip().endswith("exit...") and "Traceback" not in terminal.text
        assert (tmp_path / "chat_history").read_text().splitlines()[-2:] == ["Hello", "Go on"]
        assert (tmp_path / "chat_history").stat().st_mode & 0o777 == 0o600
    finally:
        terminal.close()
