"""Answer as one of the processes of a server, and print its device and answers as JSON: DEVICE WORKER NUM_WORKERS."""

from __future__ import annotations

import json
import queue
import sys
from pathlib import Path

from paddlemix.constants import BUNDLED_MODEL
from paddlemix.device import prepare_environment

QUESTION = "\nHow many shapes are there?"


def main(device: str, worker: str, num_workers: str) -> None:
    prepare_environment(device)
    from paddlemix.conversation.messages import Message
    from paddlemix.generate.sampling import SamplingParams
    from paddlemix.serve.model.host import EngineHost
    from paddlemix.serve.protocol import Delta, Ended, ImageInput, Job
    from paddlemix.serve.settings import ModelOptions

    options = ModelOptions(
        Path(BUNDLED_MODEL), device=device, dtype="float32", worker=int(worker), num_workers=int(num_workers)
    )
    host, events = EngineHost(options), queue.Queue()
    image = ImageInput(Path(BUNDLED_MODEL).with_name("shapes.png").read_bytes())
    settings = [SamplingParams(max_new_tokens=12, temperature=2.0 * (index % 2), seed=index) for index in range(4)]
    for index, sampling in enumerate(settings):
        host.submit(Job(str(index), sampling, (Message("user", ("", QUESTION)),), (image,)), events.put)
    texts, num_open = [""] * len(settings), len(settings)
    while num_open:
        event = events.get(timeout=120)
        if isinstance(event, Delta):
            texts[int(event.job_id)] += event.text
        num_open -= isinstance(event, Ended)
    host.close()
    print(json.dumps({"device": host.info.device, "texts": texts}))


if __name__ == "__main__":
    main(*sys.argv[1:])
