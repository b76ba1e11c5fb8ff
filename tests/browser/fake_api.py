"""A small server with the page and scripted answers: what the page does with each, without a model.

The last question chooses the answer, see `SCRIPTS`. `requests` keeps the bodies that arrived.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import paddlemix

PAGE = Path(paddlemix.__file__).parent / "serve" / "page"
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "form-action 'self'"
)
LONG = """## Two ways to cut an image

A wide image is cut into **tiles**. LLaVA 1.6 chooses the canvas that keeps *most of its detail*:

| canvas | tiles | tokens | detail kept |
|:--|--:|--:|:-:|
| 672 × 672 | 4 + 1 | 2,880 | 71 % |
| 1008 × 336 | 3 + 1 | 2,304 | 94 % |
| 336 × 1008 | 3 + 1 | 2,304 | 12 % |

In code, the choice is one line with `max`:

```python
def select_grid(size, grids):
    # Most effective pixels, then least waste.
    return max(grids, key=lambda grid: merit(size, grid))
```

1. Scale the image to fit the canvas.
2. Center it, and pad the rest:
   - above and below for a wide image,
   - left and right for a tall one.
3. Cut the canvas into tiles.

> The overview comes first: the whole image in one tile.

More is in [the paper](https://arxiv.org/abs/2310.03744)."""
HOSTILE = """<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>

[click](javascript:window.hacked=1) [data](data:text/html,<script>window.hacked=1</script>)
![pixel](https://example.com/pixel.png) <https://example.com/"onmouseover="window.hacked=1>

| a | b |
|--|--|
| <svg onload=window.hacked=1> | `<b>` |

```html
<script>window.hacked=1</script>
```

# <iframe src="javascript:window.hacked=1"></iframe>"""
SCRIPTS = {
    "long": LONG,
    "hostile": HOSTILE,
    "chinese": "图中左上角是一颗**红色的星星**，右上角是红色三角形，左下角是绿色正方形，右下角是蓝色圆形。",
    "slow": " ".join(f"word{number}" for number in range(400)),
}


@dataclass
class Behavior:
    """What the server does. key: that it asks for. num_busy: requests that it refuses with 429 before it answers."""

    key: str | None = None
    num_busy: int = 0
    wait_seconds: int = 1
    error: tuple[int, dict] | None = None  # status and error of every chat request
    is_breaking: bool = False  # the connection ends in the middle of an answer
    seconds_per_piece: float = 0.0
    grid: tuple[int, int] | None = None
    num_waiting: int = 0
    is_ready: bool = True
    max_body_bytes: int = 64 << 20
    requests: list[dict] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def behavior(self) -> Behavior:
        return self.server.behavior

    def log_message(self, *_):
        """Stay quiet."""

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path.startswith("/v1/") and not self.is_allowed():
            return
        if url.path == "/v1/status":
            self.send_json(200, self.status())
        elif url.path == "/v1/image_tokens":
            self.send_json(200, self.image_tokens(parse_qs(url.query)))
        else:
            self.send_page("index.html" if url.path == "/" else url.path[1:])

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        behavior = self.behavior
        if not self.is_allowed():
            return
        behavior.requests.append(body)
        if behavior.num_busy > 0:
            behavior.num_busy -= 1
            error = {
                "message": "the server is busy: 64 answers wait and the limit is 8; try again in 5 s",
                "type": "rate_limit_error",
                "code": "queue_full",
            }
            self.send_json(429, {"error": error}, {"Retry-After": str(behavior.wait_seconds)})
        elif behavior.error:
            self.send_json(behavior.error[0], {"error": behavior.error[1]})
        else:
            self.stream(body)

    def is_allowed(self) -> bool:
        if self.behavior.key is None or self.headers.get("Authorization") == f"Bearer {self.behavior.key}":
            return True
        error = {"message": "this server needs an API key", "type": "authentication_error", "code": "invalid_api_key"}
        self.send_json(401, {"error": error}, {"WWW-Authenticate": "Bearer"})
        return False

    def status(self) -> dict:
        return {
            "models": ["llava-v1.6-7b"],
            "max_model_len": 4096,
            "template": "vicuna_v1",
            "num_running": min(self.behavior.num_waiting, 1),
            "num_waiting": self.behavior.num_waiting,
            "is_ready": self.behavior.is_ready,
            "limits": {"max_images": 8, "max_body_bytes": self.behavior.max_body_bytes, "max_image_pixels": 64_000_000},
            "version": "0.1.0",
        }

    def image_tokens(self, query: dict) -> dict:
        grid = self.behavior.grid
        tiles = 1 + grid[0] * grid[1] if grid else 1
        return {"num_tiles": tiles, "num_tokens": tiles * 576, "grid": grid, "mode": "anyres" if grid else "pad"}

    def stream(self, body: dict):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        answer = answer_to(body)
        pieces = [answer[start : start + 4] for start in range(0, len(answer), 4)]
        try:
            self.send_chunk({"role": "assistant", "content": ""})
            for at, piece in enumerate(pieces):
                if self.behavior.is_breaking and at == 5:
                    self.close_connection = True
                    return
                self.send_chunk({"content": piece})
                time.sleep(self.behavior.seconds_per_piece)
            self.send_chunk({}, "stop")
            usage = {"prompt_tokens": 620, "completion_tokens": len(pieces), "total_tokens": 620 + len(pieces)}
            self.send_event({"choices": [], "usage": {**usage, "prompt_tokens_details": {"cached_tokens": 576}}})
            self.wfile.write(b"data: [DONE]\n\n")
        except (BrokenPipeError, ConnectionResetError):
            self.server.num_left += 1
        self.close_connection = True

    def send_chunk(self, delta: dict, finish_reason: str | None = None):
        self.send_event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}], "usage": None})

    def send_event(self, chunk: dict):
        self.wfile.write(f": ping\n\ndata: {json.dumps(chunk)}\n\n".encode())

    def send_json(self, status: int, value: dict, headers: dict | None = None):
        self.send_bytes(status, "application/json", json.dumps(value).encode(), headers or {})

    def send_page(self, name: str):
        path = PAGE / name
        if path.parent != PAGE or not path.is_file():
            self.send_json(404, {"error": {"message": f"no {name}", "type": "not_found_error"}})
        else:
            self.send_bytes(200, TYPES[path.suffix], path.read_bytes(), {"Content-Security-Policy": POLICY})

    def send_bytes(self, status: int, kind: str, content: bytes, headers: dict):
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)


def answer_to(body: dict) -> str:
    """Return the scripted answer, or an echo with what has arrived."""
    question = body["messages"][-1]["content"]
    if body.get("continue_final_message"):
        return " and the rest."
    images = [] if isinstance(question, str) else [part for part in question if part["type"] == "image_url"]
    text = question if isinstance(question, str) else "".join(part.get("text", "") for part in question)
    return SCRIPTS.get(text, f"You asked: {text} ({len(images)} images, message {len(body['messages'])})")


class FakeApi:
    """The server in a thread, on a free port of this machine."""

    def __init__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.num_left = 0  # readers that left in the middle of an answer
        self.reset()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def behavior(self) -> Behavior:
        return self.server.behavior

    def reset(self):
        self.server.behavior = Behavior()
        self.server.num_left = 0

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
