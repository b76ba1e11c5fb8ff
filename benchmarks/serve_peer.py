"""A plain server over transformers, as people write it: FastAPI, one model, one `generate` at a time in a thread.

It takes what serve_clients.py sends. Prompts have the ids of our processor, so that both servers compute the same.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import threading
import time

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from one_tile_llava import load_theirs
from transformers.generation.streamers import BaseStreamer

from paddlemix.checkpoints.processor import LlavaProcessor
from paddlemix.constants import IMAGE_TOKEN_ID
from paddlemix.conversation.messages import Conversation, Message


class Pieces(BaseStreamer):
    """Hands each new token over to an event loop."""

    def __init__(self):
        self.loop, self.queue, self.is_prompt = asyncio.get_running_loop(), asyncio.Queue(), True

    def put(self, value) -> None:
        if not self.is_prompt:  # which comes first
            self.loop.call_soon_threadsafe(self.queue.put_nowait, int(value))
        self.is_prompt = False

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.queue.put_nowait, None)


class Loop:
    """The model, and the lock that lets one request at a time use it."""

    def __init__(self, folder: str, threads: int):
        self.model = load_theirs(folder, threads)
        self.processor = LlavaProcessor.from_pretrained(folder).with_template("vicuna_v1")
        self.lock = threading.Lock()

    def generate(self, body: dict, pieces: Pieces) -> None:
        try:
            sample = self.processor.encode(conversation(body["messages"]))
            image_id = self.model.config.image_token_id
            ids = torch.tensor(np.where(sample.token_ids == IMAGE_TOKEN_ID, image_id, sample.token_ids))
            inputs = {"input_ids": ids[None], "attention_mask": torch.ones_like(ids[None])}
            if sample.images:
                inputs["pixel_values"] = torch.tensor(np.concatenate([image.pixels for image in sample.images]))
            length, is_sampled = body["max_tokens"], body["temperature"] > 0
            options = {"max_new_tokens": length, "min_new_tokens": length, "do_sample": is_sampled, "pad_token_id": 0}
            with self.lock:
                torch.manual_seed(body.get("seed", 0))
                self.model.generate(**inputs, **options, streamer=pieces)
        except BaseException:
            pieces.end()
            raise


def conversation(messages: list[dict]) -> Conversation:
    """Return a request's conversation, with its images as data URIs."""
    turned, images = [], []
    for message in messages:
        content = message["content"]
        if isinstance(content, str):
            turned.append(Message(message["role"], (content,)))
            continue
        own = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        turned.append(Message.typed(content[-1]["text"], len(own)))
        images += own
    return Conversation(turned, images)


def create_app(loop: Loop) -> FastAPI:
    app = FastAPI()

    @app.get("/ready")
    async def ready():
        return {}

    @app.post("/v1/chat/completions")
    async def chat(request: Request):
        body = await request.json()
        pieces = Pieces()
        threading.Thread(target=loop.generate, args=(body, pieces), daemon=True).start()
        if body.get("stream"):
            return StreamingResponse(stream(loop, pieces), media_type="text/event-stream")
        ids = [token async for token in tokens(pieces, loop.processor.tokenizer.vocab_size)]
        message = {"role": "assistant", "content": loop.processor.decode(ids)}
        return JSONResponse({"choices": [{"message": message}], "usage": {"completion_tokens": len(ids)}})

    return app


async def tokens(pieces: Pieces, num_vocabulary: int):
    """Yield the tokens as they come; the weights have more than the tokenizer, and these become some that it has."""
    while (token := await pieces.queue.get()) is not None:
        yield token % num_vocabulary


async def stream(loop: Loop, pieces: Pieces):
    """Yield an event for each token, then the usage."""
    tokenizer = loop.processor.tokenizer
    ids, sent = [], 0
    async for token in tokens(pieces, tokenizer.vocab_size):
        ids.append(token)
        text = tokenizer.decode(ids)
        yield event({"choices": [{"delta": {"content": text[sent:]}}], "usage": None})
        sent = len(text)
    yield event({"choices": [], "usage": {"completion_tokens": len(ids)}})
    yield "data: [DONE]\n\n"


def event(content: dict) -> str:
    return f"data: {json.dumps(content)}\n\n"


def end_with_parent() -> None:
    """End when the process that started this one has ended, however it did."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    end_with_parent()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    app = create_app(Loop(arguments.folder, arguments.threads))
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="error")


if __name__ == "__main__":
    main()
