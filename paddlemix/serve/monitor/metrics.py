"""Metrics of a server for Prometheus, with the names that the dashboards of vLLM chart.

Names begin with a prefix and a colon (`paddlemix:num_requests_running`); with the prefix `vllm`, boards that were made
for vLLM work. Figures of requests are counted here, in the web process; those of the processes with the model come from
their stats. All have the labels model_name and engine, which is "0": the processes of a server are summed.
"""

from __future__ import annotations

import re
from collections import Counter as Counts
from collections.abc import Iterator

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ..protocol import EngineStats, Status
from .request_log import RequestRecord

LABELS = ("model_name", "engine")
MAX_REASONS = 64  # label values of a counter; later ones are "other", so that no client can fill the memory
# The limits of vLLM's histograms (vllm/v1/metrics/loggers.py), which its boards expect.
REQUEST_SECONDS = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
FIRST_TOKEN_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
FIRST_TOKEN_SECONDS += (160, 640, 2560)
TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
TOKENS = tuple(digit * 10**exponent for exponent in range(6) for digit in (1, 2, 5))
IMAGES = (1, 2, 3, 4, 6, 8, 12, 16)

HISTOGRAMS = {
    "e2e_request_latency_seconds": ("From a request's arrival to its last token.", REQUEST_SECONDS),
    "time_to_first_token_seconds": ("From a request's arrival to its first token.", FIRST_TOKEN_SECONDS),
    "inter_token_latency_seconds": ("Between two pieces of an answer.", TOKEN_SECONDS),
    "request_time_per_output_token_seconds": ("Mean time of an answer's tokens after the first.", TOKEN_SECONDS),
    "request_queue_time_seconds": ("From a request's arrival to its first computation.", REQUEST_SECONDS),
    "request_prefill_time_seconds": ("From its first computation to its first token.", REQUEST_SECONDS),
    "request_decode_time_seconds": ("From its first token to its last.", REQUEST_SECONDS),
    "request_inference_time_seconds": ("From its first computation to its last token.", REQUEST_SECONDS),
    "request_prompt_tokens": ("Tokens of a prompt, places of images included.", TOKENS),
    "request_generation_tokens": ("Tokens of an answer.", TOKENS),
    "request_max_num_generation_tokens": ("Tokens of the longest answer of a request.", TOKENS),
    "request_images": ("Images of a request that has any.", IMAGES),
}
COUNTERS = {
    "prompt_tokens": "Tokens of prompts, places of images included.",
    "generation_tokens": "Tokens of answers.",
    "images": "Images of requests.",
    "image_tiles": "Tiles that images were cut into.",
    "image_tokens": "Places of prompts that images took.",
    "client_disconnects": "Requests whose client went away before the end.",
}
# Of each process: the field of EngineStats, and what it counts.
ENGINE_COUNTERS = {
    "prefix_cache_queries": ("prefix_queries", "Places of prompts that were looked up in the prefix store."),
    "prefix_cache_hits": ("prefix_hits", "Places of prompts that were known."),
    "image_cache_queries": ("image_queries", "Images that were looked up among the known features."),
    "image_cache_hits": ("image_hits", "Images whose features were known."),
    "images_encoded": ("images_encoded", "Images that the vision tower encoded."),
    "image_encode_seconds": ("image_encode_seconds", "Time of the vision tower."),
    "num_preemptions": ("num_preemptions", "Sequences that lost their place in the cache and were computed again."),
}


class Metrics:
    """Counts what happens on a server. Each app has its own, which shares no registry with others."""

    def __init__(self, model_name: str, prefix: str = "paddlemix"):
        if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", prefix):
            raise ValueError(f"the prefix of metrics is {prefix!r}: expected letters, digits and underscores")
        prometheus_client.disable_created_metrics()  # a second series for each, which no board charts
        self.prefix, self.model_name = prefix, model_name
        self._labels = (model_name, "0")
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._histograms = {name: self._histogram(name, *row) for name, row in HISTOGRAMS.items()}
        self._counters = {name: self._counter(name, text).labels(*self._labels) for name, text in COUNTERS.items()}
        self._success = self._counter(
            "request_success",
            "Answers by how they ended; those of rejected requests are not among them.",
            "finished_reason",
        )
        self._rejected = self._counter("rejected", "Requests that got no token, by the code of their error.", "reason")
        self._http = Counter(
            "http_requests", "Answers of HTTP.", ("handler", "status"), registry=self._registry
        )  # without a prefix, as the instrumentator of FastAPI names it
        self._num_started = self._num_ended = 0
        self._reasons: set[str] = set()
        self._engines = _EngineCounters()

    def _histogram(self, name: str, text: str, limits: tuple[float, ...]) -> Histogram:
        histogram = Histogram(f"{self.prefix}:{name}", text, LABELS, buckets=limits, registry=self._registry)
        return histogram.labels(*self._labels)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{self.prefix}:{name}", text, (*LABELS, *labels), registry=self._registry)

    def request_started(self) -> None:
        """Count a request to the model that has arrived and was not rejected at once."""
        self._num_started += 1

    @property
    def num_open(self) -> int:
        """Requests to the model that have arrived and are not over."""
        return self._num_started - self._num_ended

    def token_gap(self, seconds: float) -> None:
        """Count the time between two pieces of an answer."""
        self._histograms["inter_token_latency_seconds"].observe(seconds)

    def request_ended(self, record: RequestRecord, *, is_rejected: bool = False) -> None:
        """Count a request that `request_started` has counted, however it ended.

        is_rejected: `rejected` counts it, so that its answers, of which there are none, are not counted as failed too.
        """
        self._num_ended += 1
        self._add("images", record.num_images)
        self._add("image_tiles", record.num_tiles)
        self._add("image_tokens", record.num_image_tokens)
        self._add("prompt_tokens", record.num_prompt_tokens)
        self._add("generation_tokens", sum(record.num_answer_tokens))
        for reason in () if is_rejected else record.finish_reasons:
            self._success.labels(*self._labels, reason).inc()
        if "abort" in record.finish_reasons:
            self._add("client_disconnects", 1)
        for name, value in _observations(record):
            if value is not None:
                self._histograms[name].observe(value)
        for number in filter(None, record.num_answer_tokens):
            self._histograms["request_generation_tokens"].observe(number)

    def _add(self, name: str, number: float) -> None:
        self._counters[name].inc(number)

    def rejected(self, reason: str) -> None:
        """Count a request that gets no answer. reason: the code of its error."""
        if reason not in self._reasons and len(self._reasons) >= MAX_REASONS:
            reason = "other"
        self._reasons.add(reason)
        self._rejected.labels(*self._labels, reason).inc()

    def http_answered(self, status: int, path: str) -> None:
        """Count an answer of HTTP. path: the template of its route ("/v1/models/{name}"), "none" for unknown ones."""
        self._http.labels(path, f"{status // 100}xx").inc()

    def render(self, status: Status) -> tuple[bytes, str]:
        """Return all metrics in Prometheus's text format, and its content type."""
        snapshot = CollectorRegistry()
        snapshot.register(_Families(list(self._families(status))))
        text = prometheus_client.generate_latest(self._registry) + prometheus_client.generate_latest(snapshot)
        return text, prometheus_client.CONTENT_TYPE_LATEST

    def _families(self, status: Status) -> Iterator[Metric]:
        """Yield what the processes with the model say."""
        workers = status.workers
        gauges = {
            "num_requests_running": ("Sequences that are computed.", status.num_running),
            "num_requests_waiting": ("Sequences that wait, or whose images are decoded.", status.num_waiting),
            "num_requests_open": ("Requests that have arrived and are not over.", self.num_open),
            "kv_cache_usage_perc": ("Part of the cache that running sequences use, 0 to 1.", _mean_usage(workers)),
            "worker_memory_bytes": (
                "Resident memory of the processes with the model.",
                sum(worker.memory_bytes for worker in workers),
            ),
            "workers": ("Processes with the model that should run.", status.num_workers),
            "workers_ready": ("Processes with the model that are ready.", len(workers)),
            "is_ready": ("1 if new requests are accepted.", int(status.is_ready and not status.is_stopping)),
        }
        for name, (text, value) in gauges.items():
            yield self._family(GaugeMetricFamily, name, text, value)
        totals = self._engines.totals(workers)
        for name, (field, text) in ENGINE_COUNTERS.items():
            yield self._family(CounterMetricFamily, name, text, totals[field])
        restarts = "Processes with the model that were replaced."
        yield self._family(CounterMetricFamily, "worker_restarts", restarts, status.num_restarts)

    def _family(self, kind: type, name: str, text: str, value: float) -> Metric:
        family = kind(f"{self.prefix}:{name}", text, labels=LABELS)
        family.add_metric(self._labels, value)
        return family


class _Families:
    """A collector of ready metrics."""

    def __init__(self, families: list[Metric]):
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


class _EngineCounters:
    """Sums of counters over processes, which never go down.

    A process that ends takes its counts with it, and the one that replaces it begins at 0. What the sum loses is kept
    and added. If others grow meanwhile, their growth since the last call is lost, but no count is taken twice.
    """

    def __init__(self):
        self._kept: Counts[str] = Counts()
        self._last: Counts[str] = Counts()

    def totals(self, workers: tuple[EngineStats, ...]) -> dict[str, float]:
        """Return the sums by fields of EngineStats."""
        fields = [field for field, _ in ENGINE_COUNTERS.values()]
        sums = {field: sum(getattr(worker, field) for worker in workers) for field in fields}
        for field, total in sums.items():
            self._kept[field] += max(self._last[field] - total, 0)
            self._last[field] = total
        return {field: self._kept[field] + total for field, total in sums.items()}


def _mean_usage(workers: tuple[EngineStats, ...]) -> float:
    return sum(worker.cache_usage for worker in workers) / len(workers) if workers else 0.0


def _observations(record: RequestRecord) -> Iterator[tuple[str, float | None]]:
    """Yield histograms and what a request adds to them, None for what it did not reach."""
    answers, first, decode = record.num_answer_tokens, record.first_token_seconds, record.decode_seconds
    is_answered = not {"stop", "length"}.isdisjoint(record.finish_reasons)  # others would count as fast ones
    yield "e2e_request_latency_seconds", record.total_seconds if is_answered else None
    yield "time_to_first_token_seconds", first
    yield "request_queue_time_seconds", record.queue_seconds
    yield "request_prefill_time_seconds", record.prefill_seconds
    yield "request_decode_time_seconds", decode
    if record.prefill_seconds is not None and decode is not None:
        yield "request_inference_time_seconds", record.prefill_seconds + decode
    longest = max(answers, default=0)
    if decode is not None and longest > 1:
        yield "request_time_per_output_token_seconds", decode / (longest - 1)
    yield "request_prompt_tokens", record.num_prompt_tokens or None
    yield "request_max_num_generation_tokens", longest or None
    yield "request_images", record.num_images or None
