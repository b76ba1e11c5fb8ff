"""A host for workers without a model: answers as the prompt of a job tells it to.

A prompt is words: `say N` tokens one after another with `every S` seconds between them and `width W` characters each,
`logprobs K` of them with each; then an error with `die` (kill -9 to itself), `freeze` (as Ctrl-Z does), `late` (an
error after the time limit) or `hang` (no event any more). `echo` answers with facts about the process. How it loads
stands in the model's path.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from paddlemix.image.spec import ImageSpec
from paddlemix.serve.protocol import Accepted, Delta, Ended, EngineStats, Failed, Job, ModelInfo, TokenLogprob
from paddlemix.serve.settings import ModelOptions

SPEC = ImageSpec()


class FakeHost:
    def __init__(self, options: ModelOptions):
        self.options = options
        self.running: dict[str, threading.Event] = {}
        self.num_submitted = 0
        words = options.model_path.name.split("-")
        if "wrong" in words:
            raise ValueError(f"{options.model_path} is no model: expected config.json; name a model folder")
        if "missing" in words:
            raise FileNotFoundError(2, "No such file or directory", str(options.model_path))
        if "bug" in words:
            raise RuntimeError("a bug")
        if "memory" in words:
            raise MemoryError
        if "killed" in words:
            os.kill(os.getpid(), signal.SIGKILL)
        if "once" in words and options.model_path.exists():  # loads the first time only
            raise ValueError("the model has gone")
        if "once" in words:
            options.model_path.touch()
        if "slow" in words:
            time.sleep(60)
        self.info = ModelInfo("fake", "vicuna_v1", SPEC, 4096, 4096, 32000, "cpu", "float32")

    def submit(self, job: Job, emit) -> None:
        if job.prompt == "refuse":
            raise KeyError("a bug in submit")
        self.num_submitted += 1
        self.running[job.id] = threading.Event()
        threading.Thread(target=self._answer, args=(job, emit, self.running[job.id]), daemon=True).start()

    def cancel(self, job_id: str) -> None:
        cancelled = self.running.get(job_id)
        if cancelled is not None:
            cancelled.set()

    def stats(self) -> EngineStats:
        return EngineStats(num_running=len(self.running), image_queries=self.num_submitted)

    def close(self) -> None:
        if "note" in self.options.model_path.name:
            self.options.model_path.write_text("closed", encoding="utf-8")

    def _answer(self, job: Job, emit, cancelled: threading.Event) -> None:
        words = job.prompt.split() if isinstance(job.prompt, str) else ["say", "1"]
        numbers = {
            name: float(words[words.index(name) + 1]) for name in ("say", "every", "width", "logprobs") if name in words
        }
        emit(Accepted(job.id, num_prompt_tokens=3))
        if "echo" in words:
            emit(Delta(job.id, 0, self._facts(job), (1,)))
        text = "x" * int(numbers.get("width", 1))
        logprobs = (
            TokenLogprob(1, "x", b"x", -0.5, (TokenLogprob(1, "x", b"x", -0.5),) * int(numbers.get("logprobs", 0))),
        )
        for index in range(job.num_answers):
            for _ in range(int(numbers.get("say", 0))):
                if cancelled.wait(numbers.get("every", 0.0)):
                    self.running.pop(job.id)
                    return
                emit(Delta(job.id, index, text, (1,), logprobs if "logprobs" in words else ()))
            if "late" in words:
                time.sleep(job.seconds)
                emit(Failed(job.id, 504, "late", code="timeout"))
                return
            self._misbehave(words)
            emit(Ended(job.id, index, "stop", num_tokens=int(numbers.get("say", 0))))
        self.running.pop(job.id)

    def _misbehave(self, words: list[str]) -> None:
        if "die" in words:
            os.kill(os.getpid(), signal.SIGKILL)
        if "freeze" in words:
            os.kill(os.getpid(), signal.SIGSTOP)
        while "hang" in words or "freeze" in words:  # other threads may run on for a moment
            time.sleep(1)

    def _facts(self, job: Job) -> str:
        facts = {
            "pid": os.getpid(),
            "worker": self.options.worker,
            "threads": os.environ["PADDLEMIX_NUM_THREADS"],
            "paddle": "paddle" in sys.modules,
            "bytes": sum(len(image.data) for image in job.images),
            "seconds": job.seconds,
            "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        }
        return repr(facts)
