"""The model of a server and all that works with it, in the process that has it. Knows no network and no web side."""

from __future__ import annotations

import contextlib
import importlib.util
import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paddle

from ...generate.engine import Engine
from ...terminal.log import notice
from ..protocol import EngineStats, Job, ModelInfo
from ..settings import ModelOptions
from .answer_memory import AnswerMemory
from .engine_thread import EngineThread
from .failures import SERVER_ERROR, report
from .images import TileStore
from .load import loaded_engine
from .preparation import Preparation
from .work import Emit, Work

NUM_THREADS = 2  # that decode images, and as many that only tokenize, while the engine computes


class EngineHost:
    """Answers jobs with a model. All methods are safe to use from several threads and return at once.

    info: of the model. Raises ValueError or OSError for what a user can cause, as a wrong path.
    """

    def __init__(self, options: ModelOptions):
        with contextlib.ExitStack() as stack:
            engine, processor = stack.enter_context(loaded_engine(options))
            max_length = _max_length(engine, options)
            self.info = _info(engine, processor, options, max_length)
            self._loaded = stack.pop_all()
        self._engine = engine
        memory = AnswerMemory()
        tiles = TileStore(processor.spec, options.max_image_pixels)
        self._preparation = Preparation(processor, engine, tiles, memory, max_length)
        self._thread = EngineThread(engine, processor.tokenizer, memory)
        # Images of others, which may take half a minute for a request, keep no text waiting.
        self._image_pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="images")
        self._text_pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="texts")

    def submit(self, job: Job, emit: Emit) -> None:
        """Answer a job. emit: called with its events in order, from other threads; it must not wait long."""
        work = Work(job, emit)
        self._thread.register(work)
        pool = self._image_pool if job.images else self._text_pool
        pool.submit(self._prepare, work)

    def cancel(self, job_id: str) -> None:
        """Forget a job, wherever it is; no event comes any more. Unknown ids are those of jobs that have ended."""
        self._thread.cancel(job_id)

    def stats(self) -> EngineStats:
        """Return counters and gauges, without waiting for a step that is running.

        Raises RuntimeError if nothing can be answered any more, so that the process has to be started anew.
        """
        self._thread.check()
        if (leader := self._engine.model.language_model.leader) is not None:
            leader.check()
        counts = self._engine.stats()
        return EngineStats(
            num_running=counts.num_running,
            num_waiting=counts.num_waiting + self._thread.num_preparing,
            num_preemptions=counts.num_preemptions,
            cache_usage=counts.num_places / counts.max_places,
            prefix_queries=counts.prefix_queries,
            prefix_hits=counts.prefix_hits,
            image_queries=counts.image_queries,
            image_hits=counts.image_hits,
            images_encoded=counts.num_encoded,
            image_encode_seconds=counts.encode_seconds,
            memory_bytes=resident_bytes(),
        )

    def close(self) -> None:
        """End all jobs, with an error for those that are open, and all threads."""
        self._thread.close()
        for pool in (self._image_pool, self._text_pool):
            pool.shutdown(cancel_futures=True)
        self._loaded.close()

    def _prepare(self, work: Work) -> None:
        """Prepare a job in a thread, and give it to the engine or let it end."""
        try:
            if not work.job.images or self._thread.wait_for_room(work):
                self._preparation.prepare(work)
        except Exception as error:
            report(error, "a request could not be prepared")
            work.fail(500, SERVER_ERROR)
        self._thread.add(work)


def _max_length(engine: Engine, options: ModelOptions) -> int:
    """Return how many tokens a prompt and its answer may have. Raises ValueError for more than the model can."""
    context, places = engine.model.config.language.max_position_embeddings, engine.slots.max_places
    wanted = options.max_model_len or context
    if wanted > context:
        raise ValueError(f"--max-model-len is {wanted}, but the context of the model holds {context} tokens")
    if wanted <= places:
        return wanted
    if options.max_model_len is not None:
        raise ValueError(f"--max-model-len is {wanted}, but the cache holds {places} tokens: raise --cache-gb")
    notice(f"the cache holds {places} of the {context} tokens of the model's context: a larger --cache-gb makes room")
    return places


def _info(engine: Engine, processor, options: ModelOptions, max_length: int) -> ModelInfo:
    dtype = str(engine.model.projector.parameters()[0].dtype)
    return ModelInfo(
        name=Path(options.model_path).name,
        template=processor.template.name,
        image=processor.spec,
        max_model_len=max_length,
        max_places=engine.slots.max_places,
        num_vocabulary=processor.tokenizer.vocab_size,
        device=paddle.get_device(),
        dtype=dtype.rpartition(".")[2],
        is_structured_output_known=importlib.util.find_spec("llguidance") is not None,
    )


def resident_bytes() -> int:
    """Return the resident memory of this process; where the kernel does not tell, the most that it was."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return kibibytes if sys.platform == "darwin" else kibibytes * 1024  # macOS counts bytes
    return pages * resource.getpagesize()
