"""The scripts of benchmarks/ keep up with the package: they start, and call it by its present signatures."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "benchmarks")]
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))
TAKES_HELP = re.compile(r"ArgumentParser\(|from peers import .*\bparse\b")
# Runs scripts in one process, as most of the time goes into imports; prints what went wrong by script.
STARTS = """
import contextlib, io, json, runpy, sys, traceback
wrong = {}
for path, words in json.loads(sys.argv[1]):
    sys.argv, code = [path, *words], None if words else 0
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(path, run_name="__main__" if words else "benchmark")
    except SystemExit as end:
        code = end.code or 0
    except ModuleNotFoundError as error:
        code = 0 if error.name in ("torch", "transformers", "uvicorn", "fastapi") else traceback.format_exc()
    except BaseException:
        code = traceback.format_exc()
    if code != 0:
        wrong[path] = code
print(json.dumps(wrong))
"""


def test_every_script_can_be_imported_and_shows_its_help():
    texts = {path: path.read_text(encoding="utf-8") for path in SCRIPTS}
    calls = [
        (str(path), ["--help"] if TAKES_HELP.search(text) and '"__main__"' in text else [])
        for path, text in texts.items()
    ]
    assert sum(bool(words) for _, words in calls) > 20
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])}
    command = [sys.executable, "-W", "ignore", "-c", STARTS, json.dumps(calls)]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {}


def imported(part: ast.AST) -> dict[str, Any]:
    """Return what a part of a script imports from modules, by its name there; None for what is not the package's."""
    found = {}
    for node in ast.walk(part):
        if isinstance(node, ast.ImportFrom):
            is_ours = node.module.split(".")[0] == "paddlemix"
            found |= {one.asname or one.name: named(node.module, one.name) if is_ours else None for one in node.names}
    return found


def named(module: str, name: str) -> Any:
    """Return an object, or a module, of a module."""
    if not hasattr(importlib.import_module(module), name):
        importlib.import_module(f"{module}.{name}")
    return getattr(importlib.import_module(module), name)


def resolved(node: ast.expr, names: dict[str, Any]) -> Any:
    """Return the object of the package that a name, or an attribute of one, stands for; None for any other."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    owner = resolved(node.value, names) if isinstance(node, ast.Attribute) else None
    return None if owner is None else getattr(owner, node.attr)


def mismatches(script: ast.Module) -> Iterator[str]:
    """Yield the calls of the package whose arguments do not fit the signature."""
    shared = imported(ast.Module([one for one in script.body if isinstance(one, ast.ImportFrom)], []))
    for part in script.body:
        yield from mismatches_in(part, {**shared, **imported(part)})


def mismatches_in(part: ast.AST, names: dict[str, Any]) -> Iterator[str]:
    for node in ast.walk(part):
        target = resolved(node.func, names) if isinstance(node, ast.Call) else None
        if not callable(target):
            continue
        values = [one for one in node.args if not isinstance(one, ast.Starred)]
        keywords = {one.arg: one.value for one in node.keywords if one.arg is not None}
        is_whole = len(values) == len(node.args) and len(keywords) == len(node.keywords)
        signature = inspect.signature(target)
        try:
            (signature.bind if is_whole else signature.bind_partial)(*values, **keywords)
        except TypeError as error:
            yield f"line {node.lineno}: {ast.unparse(node.func)}{signature}: {error}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_calls_of_the_package_fit_its_signatures(path):
    assert list(mismatches(ast.parse(path.read_text(encoding="utf-8")))) == []


def test_the_comparison_finds_a_renamed_function_and_a_wrong_keyword():
    start = "from paddlemix.output import named_file\nfrom paddlemix import output\n"
    assert not list(mismatches(ast.parse(f"{start}named_file('a', sources=[])\noutput.named_file(*names)")))
    (found,) = mismatches(ast.parse(f"{start}named_file('a', inputs=[])"))
    assert "line 3: named_file(" in found and "unexpected keyword argument 'inputs'" in found
    with pytest.raises(AttributeError):
        list(mismatches(ast.parse(f"{start}output.file_of('a')")))


def test_a_training_step_runs_on_a_small_decoder(monkeypatch):
    pytest.importorskip("paddlenlp")
    import train_step

    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 3, "num_key_value_heads": 1}
    monkeypatch.setattr(train_step, "DECODER", {**train_step.DECODER, **sizes})
    for role in ("ours", "packed"):
        arguments = SimpleNamespace(role=role, batch=2)
        found = train_step.run_ours(train_step.lengths(6), arguments)
        assert found["trained"] > 0 and found["loss"] > 0
