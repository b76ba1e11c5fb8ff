"""Imports between folders go only down, and a process loads only the frameworks it needs."""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import paddlemix

PACKAGE = Path(__file__).resolve().parents[1] / "paddlemix"
HEAVY = ("paddle", "paddlenlp", "torch", "transformers")
# Files and folders of the package, from the bottom up. Each may import those of lower floors, lazily as well.
FLOORS = (
    ("__version__", "constants", "fingerprint", "packages", "terminal", "output"),
    ("json_object",),
    ("foreign_json", "web"),
    ("conversation", "image"),
    ("data",),
    ("prepare",),
    ("accelerators", "tensor_files"),
    ("device", "device_memory"),
    ("ops",),
    ("models", "hub"),
    ("checkpoints",),
    ("generate",),
    ("evaluate",),
    ("train",),
    ("serve", "doctor"),
    ("api",),
    ("commands",),
    ("cli",),
    ("examples", "__main__", "__init__"),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path for path in PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """Return a file's module name below the package: "models.llava", or "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def statements(tree: ast.AST, is_lazy_too: bool) -> Iterator[ast.AST]:
    """Yield the nodes of a file; those inside functions only if is_lazy_too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not is_lazy_too:
            continue
        yield node
        yield from statements(node, is_lazy_too)


def imports_of(path: Path, is_lazy_too: bool) -> Iterator[str]:
    """Yield the full names that a file imports, with relative ones resolved to "paddlemix. ...".

    `from a import b` yields "a.b", so a module imported from its package is found.
    """
    package = ["paddlemix", *filter(None, module_of(path).split("."))]
    package = package if path.name == "__init__.py" else package[:-1]
    for node in statements(ast.parse(path.read_text(encoding="utf-8")), is_lazy_too):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*start, *filter(None, [node.module])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> list[str]:
    """Return the names that a file imports from the package, lazily as well, without "paddlemix."."""
    names = [name for name in imports_of(path, is_lazy_too=True) if name.split(".")[0] == "paddlemix"]
    public = paddlemix._MODULES
    return [public.get(name, name) for name in (name.partition(".")[2] for name in names)]


def is_down(module: str, target: str) -> bool:
    """Return whether a module may import a name: its room's own, or one of a lower floor."""
    room, wanted = module.split(".")[0], target.split(".")[0]
    return room == wanted or FLOOR_OF[wanted] < FLOOR_OF[room]


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path) or "paddlemix")
def test_imports_go_only_down(path):
    module = module_of(path) or "__init__"
    assert module.split(".")[0] in FLOOR_OF, f"{module} has no floor: add its room to FLOORS"
    assert [target for target in own_imports(path) if not is_down(module, target)] == []


@pytest.mark.parametrize(
    ("module", "target", "expected"),
    [
        ("data.encode", "image.anyres.num_tiles", True),
        ("data.encode", "models.llava.Llava", False),
        ("data.encode", "device.use_device", False),
        ("models.llava", "data.sample.Batch", True),
        ("models.llava", "checkpoints.load.load_model", False),
        ("image.load", "conversation.messages.Message", False),
        ("ops.rope", "models.config", False),
        ("checkpoints.load", "device", True),
        ("generate.engine", "train.run", False),
        ("train.run", "doctor.run_checks", False),
        ("cli", "commands.train.main", True),
    ],
)
def test_is_down_accepts_imports_of_lower_floors_and_rejects_others(module, target, expected):
    assert is_down(module, target) == expected


def test_files_do_not_import_each_other_in_circles():
    modules = {module_of(path): path for path in FILES}
    graph = {}
    for module, path in modules.items():
        owners = ((name, name.rpartition(".")[0]) for name in own_imports(path))
        graph[module] = {next((one for one in pair if one in modules), module) for pair in owners} - {module}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_scan_finds_relative_and_lazy_imports():
    assert "data.sample.Batch" in own_imports(PACKAGE / "models" / "llava.py")
    assert "device" in own_imports(PACKAGE / "checkpoints" / "load.py")
    lazy = PACKAGE / "doctor" / "tiny_runs.py"
    assert "paddlemix.generate.session.ChatSession" not in imports_of(lazy, is_lazy_too=False)
    assert "generate.session.ChatSession" in own_imports(lazy)


def test_only_train_imports_paddlenlp():
    users = {
        module_of(path).split(".")[0]
        for path in FILES
        if any(name.split(".")[0] == "paddlenlp" for name in imports_of(path, is_lazy_too=True))
    }
    assert users == {"train"}


def test_nothing_imports_torch_or_transformers():
    for path in FILES:
        roots = {name.split(".")[0] for name in imports_of(path, is_lazy_too=True)}
        assert not roots & {"torch", "transformers"}, path


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path) or "paddlemix")
def test_text_image_and_data_folders_never_import_a_framework(path):
    if module_of(path).split(".")[0] in ("conversation", "image", "data", "prepare"):
        assert not {name.split(".")[0] for name in imports_of(path, is_lazy_too=True)} & set(HEAVY)


def loaded_by(code: str) -> list[str]:
    """Run code in a new process and return the heavy packages that it loaded."""
    probe = f"{code}\nimport json, sys\nprint(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, cwd=PACKAGE.parent, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_package_and_its_command_line_loads_no_framework():
    assert loaded_by("import paddlemix.cli; paddlemix.Conversation, paddlemix.Message, paddlemix.SamplingParams") == []


def test_importing_text_image_and_data_folders_loads_no_framework():
    folders = ("conversation", "image", "data", "prepare")
    modules = [module_of(path) for path in FILES if module_of(path).split(".")[0] in folders]
    assert len(modules) > 20
    assert loaded_by("\n".join(f"import paddlemix.{module}" for module in modules)) == []


def test_chat_loads_paddle_and_no_other_framework():
    code = "from paddlemix import LlavaForConditionalGeneration, LlavaProcessor, ChatSession\n"
    code += "from paddlemix import Conversation, Message, Batch, Sample, SamplingParams, LlavaConfig"
    assert loaded_by(code) == ["paddle"]


def test_public_names_are_listed_and_an_unknown_one_raises():
    import paddlemix

    for name in paddlemix.__all__:
        assert name in dir(paddlemix)
    with pytest.raises(AttributeError, match="has no attribute 'Llava'"):
        paddlemix.Llava  # noqa: B018
