"""A server on this machine that acts as the Hugging Face hub, ModelScope and a plain store, and fails on demand."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from paddlemix.hub.limits import HubLimits

NAME = "liuhaotian/llava-v1.6-tiny"
SHARD = "model-00001-of-00002.safetensors"
LIMITS = HubLimits(connect_seconds=10, read_seconds=1.5, list_retries=1, retry_seconds=0.01)
LARGE = 1000  # bytes: larger files are stored outside of git


def some_bytes(num_bytes: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(num_bytes)


def make_model(**more: bytes) -> dict[str, bytes]:
    """Return the files of a model with two shards, as a hub has them."""
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    return {
        "config.json": b'{"architectures": ["LlavaLlamaForCausalLM"]}',
        "tokenizer.model": some_bytes(300),
        "tokenizer_config.json": b"{}",
        "processor/eval/preprocessor_config.json": b'{"size": 336}',
        "model.safetensors.index.json": json.dumps(index).encode(),
        shards[0]: some_bytes(200_000, 1),
        shards[1]: some_bytes(90_000, 2),
        **more,
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder without the marker of a complete download."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found.pop(".paddlemix_download.json", None)
    return found


def wait_until(is_true: Callable[[], bool], seconds: float = 120) -> None:
    """Return when something is true. seconds: for a busy machine."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class HubServer(ThreadingHTTPServer):
    """models: name or name@revision -> {path: bytes}.

    faults: path of a file -> the faults of its next requests, in order.
    seen: (method, path of the file or list, first requested byte, Authorization, host) of every request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.models: dict[str, dict[str, bytes]] = {}
        self.faults: dict[str, Iterator[str]] = {}
        self.listed: dict[str, dict] = {}
        self.seen: list[tuple] = []
        self.agents: set[str] = set()
        self.is_gated = False
        self.pause = 0.05  # seconds between the ten parts of a slow answer
        self.num_sent = 0
        self.has_head = True
        self.has_hashes = True  # whether the plain store sends ETags
        self.has_md5 = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def gets(self, path: str | None = None) -> list[tuple]:
        """Return the requests for contents, of one file or all."""
        return [one for one in self.seen if one[0] == "GET" and one[1] != "list" and path in (None, one[1])]


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def commit_of(files: dict[str, bytes]) -> str:
    return hashlib.sha1(b"".join(name.encode() + files[name] for name in sorted(files))).hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    server: HubServer
    etag = commit = ""  # headers of the Hugging Face hub for a small file

    def do_GET(self):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._answer()

    def do_HEAD(self):
        if not self.server.has_head:
            return self._empty(405)
        return self._answer()

    def log_message(self, *arguments):
        """Log nothing."""

    def _answer(self):
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        for pattern, answer in (
            (r"/api/models/(.+)/revision/(.+)", self._list_hf),
            (r"/api/models/(.+)/tree/([0-9a-f]{40})", self._tree_hf),
            (r"/api/v1/models/(.+)/repo/files", lambda name: self._list_modelscope(self._version(name, query))),
            (r"/api/v1/models/(.+)/repo", lambda name: self._file(self._version(name, query), query["FilePath"][0])),
            (r"/plain/([^/]+/[^/]+)/(.+)", self._file),
            (r"/cdn/([^/]+/[^/]+)/(.+)", self._file),
            (r"/([^/]+/[^/]+)/resolve/([0-9a-f]{40})/(.+)", self._resolve_hf),
        ):
            match = re.fullmatch(pattern, path)
            if match:
                return answer(*match.groups())
        return self._empty(404)

    def _list_hf(self, name, revision):
        self._note("list")
        files = self.server.models.get(f"{name}@{revision}", self.server.models.get(name))
        if self.server.is_gated:
            return self._empty(403, "GatedRepo")
        if files is None:
            return self._empty(401, "RepoNotFound")
        if revision not in ("main", "v2"):
            return self._empty(404, "RevisionNotFound")
        siblings = []
        for path, content in files.items():
            entry = {"rfilename": path, "size": len(content), "blobId": git_hash(content)}
            if len(content) >= LARGE:
                entry |= {"lfs": {"sha256": _sha256(content), "size": len(content), "pointerSize": 130}}
                entry["blobId"] = git_hash(b"a pointer")
            siblings.append({**entry, **self.server.listed.get(path, {})})
        return self._json({"id": name, "sha": commit_of(files), "siblings": siblings})

    def _tree_hf(self, name, commit):
        """List files for `snapshot_download` of huggingface_hub 1.x."""
        entries = []
        for path, content in self._files_of(name, commit).items():
            entry = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
            if len(content) >= LARGE:
                entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 130}
            entries.append(entry)
        return self._json(entries)

    def _files_of(self, name, commit) -> dict[str, bytes]:
        """Return the files of the revision with this commit."""
        versions = [files for one, files in self.server.models.items() if one.split("@")[0] == name]
        return next((files for files in versions if commit_of(files) == commit), {})

    def _version(self, name, query) -> str:
        """Return the key of a revision's files."""
        key = f"{name}@{query.get('Revision', [''])[0]}"
        return key if key in self.server.models else name

    def _list_modelscope(self, name):
        self._note("list")
        files = self.server.models.get(name)
        if files is None:
            return self._json({"Code": 10010205001, "Message": "model not found", "Success": False}, 404)
        entries = [{"Path": "processor", "Type": "tree", "Size": 0}]
        for path, content in files.items():
            entries.append({"Path": path, "Type": "blob", "Size": len(content), "Sha256": _sha256(content)})
        return self._json({"Code": 200, "Data": {"Files": entries}, "Success": True})

    def _resolve_hf(self, name, commit, path):
        """Answer as the hub does: send small files, redirect to another host for large ones."""
        content = self._files_of(name, commit).get(path)
        if content is None:
            return self._empty(404, "EntryNotFound")
        key = next(one for one, files in self.server.models.items() if files.get(path) is content)
        if len(content) < LARGE:
            self.etag, self.commit = git_hash(content), commit
            return self._file(key, path)
        self.send_response(302)
        # "localhost" counts as another host than 127.0.0.1
        self.send_header("Location", f"http://localhost:{self.server.server_port}/cdn/{key}/{path}")
        self.send_header("X-Repo-Commit", commit)
        self.send_header("X-Linked-Etag", f'"{_sha256(content)}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Content-Length", "0")
        return self.end_headers()

    def _note(self, path, start=0):
        facts = (self.command, path, start, self.headers.get("Authorization"), self.headers.get("Host"))
        self.server.seen.append(facts)
        self.server.agents.add(self.headers.get("User-Agent"))

    def _file(self, name, path):
        fault = next(self.server.faults.get(path, iter(())), None) if self.command == "GET" else None
        content = self.server.models.get(name, {}).get(path)
        start = self._start(content or b"", fault)
        self._note(path, start)
        if content is None or fault == "404":
            return self._empty(404)
        if fault == "500":
            return self._empty(500)
        if fault == "silent":
            time.sleep(4)  # longer than any test waits
        self._send(content, start, fault)
        return None

    def _start(self, content: bytes, fault) -> int:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        is_other = condition is not None and condition != self._etag(content)
        return 0 if match is None or fault == "no range" or is_other else int(match.group(1))

    def _etag(self, content: bytes) -> str:
        return f'"{self.etag or hashlib.md5(content).hexdigest()}"'

    def _send(self, content: bytes, start: int, fault):
        rest = content[start:]
        if fault == "corrupt":
            rest = bytes(byte ^ 1 for byte in rest)
        if fault == "short":
            rest = rest[: len(rest) // 2]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.server.has_hashes or self.etag:
            self.send_header("ETag", self._etag(content))
        if self.commit:
            self.send_header("X-Repo-Commit", self.commit)
        if self.server.has_md5:
            self.send_header("Content-MD5", base64.b64encode(hashlib.md5(content).digest()).decode())
        if fault != "break untold":
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self._write(rest, fault)

    def _write(self, rest: bytes, fault):
        if fault in ("break", "break untold"):
            rest = rest[: len(rest) // 2]
        step = max(len(rest) // 10, 1) if fault == "slow" else max(len(rest), 1)
        for first in range(0, len(rest), step):
            self.wfile.write(rest[first : first + step])
            self.wfile.flush()
            self.server.num_sent += len(rest[first : first + step])
            time.sleep(self.server.pause if fault == "slow" else 0)
        self.close_connection = True

    def _json(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _empty(self, status, error_code=""):
        self.send_response(status)
        self.send_header("X-Error-Code", error_code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextlib.contextmanager
def running():
    """Yield a server that answers each request in a thread."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
