"""Clients of an OpenAI-compatible server: conversations about images over plain sockets, and what each waited for.

Plain sockets, because a client library takes more processor time for each token than the server does.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import statistics
import time
from dataclasses import dataclass, field

import numpy as np

SIZE = (500, 375)  # (width, height) of the images in pixels, as many of COCO have
NUM_IMAGES = 12
LENGTHS = (16, 32, 48)  # tokens of an answer
WORDS = ("red", "green", "blue", "yellow", "star", "circle", "square", "triangle", "top", "left", "right", "bottom")
MAX_PAUSE = 2.0  # seconds after a 429


@dataclass
class Tally:
    """What the clients of a phase saw. Seconds: to the first token of a stream, and between its later ones.

    processor_seconds: of the server, in all its processes.
    """

    first_tokens: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    num_answers: int = 0
    num_tokens: int = 0
    num_refused: int = 0  # with 429
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0
    processor_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.num_tokens / self.seconds

    @property
    def processor_rate(self) -> float:
        """Tokens a second of processor time, which other work on the machine changes less."""
        return self.num_tokens / self.processor_seconds


def make_images() -> list[str]:
    """Return data URIs of images of noise."""
    from PIL import Image

    draw, uris = np.random.default_rng(5), []
    for _ in range(NUM_IMAGES):
        output = io.BytesIO()
        blocks = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize(SIZE, Image.Resampling.BICUBIC).save(output, "JPEG")
        uris.append("data:image/jpeg;base64," + base64.b64encode(output.getvalue()).decode())
    return uris


async def load(port: int, num_clients: int, seconds: float, seed: int) -> Tally:
    """Let clients hold conversations for so long; answers that are not complete by then are not counted."""
    tally, images = Tally(), make_images()
    start = time.monotonic()
    clients = [
        asyncio.create_task(_converse(port, images, random.Random(1000 * seed + number), tally))
        for number in range(num_clients)
    ]
    done, pending = await asyncio.wait(clients, timeout=seconds)
    tally.seconds = time.monotonic() - start
    for client in pending:
        client.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    tally.errors += [f"{type(client.exception()).__name__}: {client.exception()}" for client in done]
    return tally


async def show_images(port: int) -> None:
    """Ask one question about each image, one after the other, so that a server that keeps images knows them."""
    tally, draw = Tally(), random.Random(0)
    for uri in make_images():
        content = [{"type": "image_url", "image_url": {"url": uri}}, _question(draw)]
        await _ask(port, [{"role": "user", "content": content}], draw, tally)
    if tally.errors:
        raise SystemExit(f"the warm-up failed: {tally.errors[0]}")


async def _converse(port: int, images: list[str], draw: random.Random, tally: Tally) -> None:
    """Hold one conversation after the other: half of them about an image, some about two, each of two turns."""
    while True:
        chosen = draw.choices(images, k=draw.choice((0, 0, 1, 1, 1, 2)))
        content = [{"type": "image_url", "image_url": {"url": uri}} for uri in chosen]
        messages = [{"role": "user", "content": [*content, _question(draw)]}]
        for _ in range(2):
            answer = await _ask(port, messages, draw, tally)
            if answer is None:
                break
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": [_question(draw)]}]


def _question(draw: random.Random) -> dict:
    return {"type": "text", "text": f"Is there a {' '.join(draw.choices(WORDS, k=6))}?"}


async def _ask(port: int, messages: list, draw: random.Random, tally: Tally) -> str | None:
    """Return the answer, or None if there is none."""
    body = {"model": "", "messages": messages, "max_tokens": draw.choice(LENGTHS), "ignore_eos": True}
    body |= {"temperature": 1.0, "seed": draw.randrange(1 << 30)} if draw.random() < 0.3 else {"temperature": 0}
    if draw.random() < 0.75:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        content = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode() + content)
        await writer.drain()
        return await _answer(reader, "stream" in body, tally)
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader, is_stream: bool, tally: Tally) -> str | None:
    start = time.monotonic()
    status = int((await reader.readline()).split()[1])
    headers = {}
    while line := (await reader.readline()).decode().strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if status == 429:
        tally.num_refused += 1
        await asyncio.sleep(min(float(headers["retry-after"]), MAX_PAUSE))
        return None
    if status != 200:
        tally.errors.append(f"{status}: {(await reader.read())[:300]!r}")
        return None
    if is_stream:
        return await _read_stream(reader, start, tally)
    answer = json.loads(await reader.read())
    _count(answer["usage"], tally)
    return answer["choices"][0]["message"]["content"]


async def _read_stream(reader: asyncio.StreamReader, start: float, tally: Tally) -> str | None:
    """Return the text of a stream; the lines between chunks of the transfer encoding are skipped."""
    text, last, usage, is_done = "", None, None, False
    while line := await reader.readline():
        if not line.startswith(b"data: "):
            continue
        if line.startswith(b"data: [DONE]"):
            is_done = True
            break
        event = json.loads(line[6:])
        if "error" in event:
            tally.errors.append(str(event["error"]))
            return None
        usage = event.get("usage") or usage
        piece = event["choices"][0]["delta"].get("content") if event["choices"] else None
        if piece:
            now = time.monotonic()
            (tally.first_tokens if last is None else tally.gaps).append(now - (start if last is None else last))
            text, last = text + piece, now
    if not is_done or usage is None:
        tally.errors.append("a stream ended early")
        return None
    _count(usage, tally)
    return text


def _count(usage: dict, tally: Tally) -> None:
    tally.num_answers += 1
    tally.num_tokens += usage["completion_tokens"]


def report(name: str, tally: Tally) -> None:
    """Print what a phase brought."""
    print(
        f"{name:26} {tally.rate:6.1f} tokens/s ({tally.processor_rate:.1f} a second of processor time)  "
        f"{tally.num_answers} answers  first token {_times(tally.first_tokens)}"
        f"  gap {_times(tally.gaps)}  429: {tally.num_refused}  errors: {len(tally.errors)}",
        flush=True,
    )
    for error in tally.errors[:3]:
        print(f"    {error}")


def _times(seconds: list[float]) -> str:
    """Return the median and the 95th percentile."""
    if len(seconds) < 2:
        return "-"
    hundredths = statistics.quantiles(seconds, n=100, method="inclusive")
    return f"p50 {hundredths[49] * 1e3:.0f} p95 {hundredths[94] * 1e3:.0f} ms"
