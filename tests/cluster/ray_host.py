"""A stand-in for `EngineHost` in replicas of a cluster: answers with words, and says in which process."""

from __future__ import annotations

import os
import threading
import time

from paddlemix.serve.protocol import Accepted, Delta, Ended, EngineStats, ModelInfo


class WordHost:
    """Each answer is "process N said M words", a word every `SECONDS`."""

    SECONDS = 0.05

    def __init__(self, options):
        self.info = ModelInfo("words", "plain", None, 1024, 1024, 100, "cpu", "float32")
        self.cancelled: set[str] = set()
        self.num_running = 0

    def submit(self, job, emit):
        threading.Thread(target=self._say, args=(job, emit), daemon=True).start()

    def _say(self, job, emit):
        self.num_running += 1
        emit(Accepted(job.id, 3))
        words = [f"process {os.getpid()}", *map(str, range(job.sampling.max_new_tokens - 1))]
        for number, word in enumerate(words):
            if job.id in self.cancelled:
                break
            emit(Delta(job.id, 0, word + " ", (number,)))
            time.sleep(self.SECONDS)
        self.num_running -= 1
        if job.id not in self.cancelled:
            emit(Ended(job.id, 0, "stop", len(words)))

    def cancel(self, job_id):
        self.cancelled.add(job_id)

    def stats(self):
        return EngineStats(num_running=self.num_running)

    def close(self):
        pass
