"""Metrics have the names that dashboards chart, add up and survive restarts; the dashboard charts what there is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from request_records import full_record

import paddlemix
from paddlemix.serve.monitor.metrics import MAX_REASONS, Metrics
from paddlemix.serve.monitor.request_log import RequestRecord
from paddlemix.serve.protocol import EngineStats, Status

DASHBOARD = Path(paddlemix.__file__).parent / "examples/llava/serve/grafana.json"
STATUS = Status(
    is_ready=True,
    num_workers=2,
    num_restarts=3,
    workers=(
        EngineStats(2, 1, 1, 0.5, 100, 40, 5, 2, 3, 0.75, 1000),
        EngineStats(1, 0, 0, 0.1, 10, 5, 1, 0, 1, 0.25, 500),
    ),
)
# What vLLM's boards chart (vllm-project/vllm, examples/observability), without what only its engine knows.
CHARTED_BY_VLLM = """
e2e_request_latency_seconds time_to_first_token_seconds inter_token_latency_seconds prompt_tokens generation_tokens
num_requests_running num_requests_waiting kv_cache_usage_perc request_success request_prompt_tokens
request_generation_tokens request_queue_time_seconds request_prefill_time_seconds request_decode_time_seconds
request_inference_time_seconds request_max_num_generation_tokens request_time_per_output_token_seconds
prefix_cache_queries prefix_cache_hits num_preemptions
""".split()


def used(prefix: str = "paddlemix") -> Metrics:
    """Return metrics in which everything has happened once."""
    metrics = Metrics("llava-tiny", prefix)
    metrics.request_started()
    metrics.token_gap(0.03)
    metrics.request_ended(full_record())
    metrics.rejected("queue_full")
    metrics.http_answered(200, "/v1/models")
    return metrics


def rendered(metrics: Metrics, status: Status = STATUS) -> dict[tuple[str, str], float]:
    """Return values by names and by their labels other than model_name and engine, in the order of names."""
    text, content_type = metrics.render(status)
    assert content_type.startswith("text/plain")
    values = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = {key: value for key, value in sample.labels.items() if key not in ("model_name", "engine")}
            values[sample.name, ",".join(labels[key] for key in sorted(labels))] = sample.value
    return values


@pytest.mark.parametrize("prefix", ["paddlemix", "vllm"])
def test_metrics_have_the_names_and_labels_that_boards_of_vllm_chart(prefix):
    text = used(prefix).render(STATUS)[0].decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for name in CHARTED_BY_VLLM:
        for sample in families[f"{prefix}:{name}"].samples:
            assert (sample.labels["model_name"], sample.labels["engine"]) == ("llava-tiny", "0")
    assert "_created" not in text


def test_a_request_is_counted_in_every_figure():
    values = rendered(used())
    expected = {
        ("prompt_tokens_total", ""): 700, ("generation_tokens_total", ""): 41, ("images_total", ""): 2,
        ("image_tiles_total", ""): 6, ("image_tokens_total", ""): 640, ("client_disconnects_total", ""): 0,
        ("request_success_total", "stop"): 1, ("request_success_total", "length"): 1,
        ("rejected_total", "queue_full"): 1, ("e2e_request_latency_seconds_sum", ""): 3.5,
        ("e2e_request_latency_seconds_bucket", "2.5"): 0, ("e2e_request_latency_seconds_bucket", "5.0"): 1,
        ("time_to_first_token_seconds_sum", ""): 0.52, ("inter_token_latency_seconds_sum", ""): 0.03,
        ("request_inference_time_seconds_sum", ""): 3.4, ("request_queue_time_seconds_sum", ""): 0.01,
        ("request_prefill_time_seconds_sum", ""): 0.5, ("request_decode_time_seconds_sum", ""): 2.9,
        ("request_time_per_output_token_seconds_sum", ""): 0.1, ("request_prompt_tokens_sum", ""): 700,
        ("request_generation_tokens_count", ""): 2, ("request_generation_tokens_sum", ""): 41,
        ("request_max_num_generation_tokens_sum", ""): 30, ("request_images_sum", ""): 2,
    }  # fmt: skip
    assert {key: values[f"paddlemix:{key[0]}", key[1]] for key in expected} == pytest.approx(expected)
    assert values["http_requests_total", "/v1/models,2xx"] == 1


def test_what_processes_say_is_summed():
    values = rendered(used())
    expected = {
        "num_requests_running": 3, "num_requests_waiting": 1, "kv_cache_usage_perc": 0.3, "worker_memory_bytes": 1500,
        "num_preemptions_total": 1, "prefix_cache_queries_total": 110, "prefix_cache_hits_total": 45,
        "image_cache_queries_total": 6, "image_cache_hits_total": 2, "images_encoded_total": 4,
        "image_encode_seconds_total": 1.0, "workers": 2, "workers_ready": 2, "worker_restarts_total": 3, "is_ready": 1,
        "num_requests_open": 0,
    }  # fmt: skip
    assert {name: values[f"paddlemix:{name}", ""] for name in expected} == pytest.approx(expected)
    assert rendered(used(), Status(is_ready=True, is_stopping=True))["paddlemix:is_ready", ""] == 0


def test_counters_never_go_down_when_processes_are_replaced():
    metrics = Metrics("m")
    seen = []
    for counts in [(100, 50), (100,), (100, 3), (120, 10), (), (0, 0), (7, 1)]:
        status = Status(True, workers=tuple(EngineStats(prefix_queries=count) for count in counts))
        seen.append(rendered(metrics, status)["paddlemix:prefix_cache_queries_total", ""])
    assert seen == [150, 150, 153, 180, 180, 180, 188]


def test_a_request_that_is_open_failed_or_left_is_told_apart():
    metrics = Metrics("m")
    for _ in range(3):
        metrics.request_started()
    metrics.request_ended(RequestRecord(id="1", path="/", status=500, error_code="worker_died", total_seconds=9.0))
    metrics.request_ended(RequestRecord(id="2", path="/", finish_reasons=("abort",), total_seconds=1.0))
    values = rendered(metrics)
    assert values["paddlemix:num_requests_open", ""] == 1
    assert values["paddlemix:client_disconnects_total", ""] == 1
    for name in ("e2e_request_latency_seconds", "request_generation_tokens"):
        assert values[f"paddlemix:{name}_count", ""] == 0  # or they would count as fast ones
    assert values["paddlemix:time_to_first_token_seconds_count", ""] == 0


def test_a_refused_request_is_counted_once():
    metrics = Metrics("m")
    metrics.request_started()
    metrics.rejected("queue_full")
    record = RequestRecord(id="1", path="/", status=429, error_code="queue_full", finish_reasons=("error",))
    metrics.request_ended(record, is_rejected=True)
    counted = {key[0]: value for key, value in rendered(metrics).items() if key[1] in ("error", "queue_full")}
    assert counted == {"paddlemix:rejected_total": 1} and metrics.num_open == 0


def test_the_number_of_label_values_is_bounded():
    metrics = Metrics("m")
    for number in range(MAX_REASONS + 50):
        metrics.rejected(f"reason{number}")
    reasons = {label: value for (name, label), value in rendered(metrics).items() if name == "paddlemix:rejected_total"}
    assert len(reasons) == MAX_REASONS + 1 and reasons["other"] == 50


def test_two_servers_in_a_process_share_no_counts():
    first, second = used(), Metrics("other")
    assert rendered(first)["paddlemix:images_total", ""] == 2 and rendered(second)["paddlemix:images_total", ""] == 0


@pytest.mark.parametrize("prefix", ["", "a b", "1a", "a:", 'a"', "图"])
def test_a_prefix_that_is_no_name_is_refused(prefix):
    with pytest.raises(ValueError, match="the prefix of metrics is"):
        Metrics("m", prefix)


def test_a_model_name_with_odd_characters_is_escaped():
    text = Metrics('a"\n\\b').render(STATUS)[0].decode()
    assert {sample.labels["model_name"] for family in text_string_to_metric_families(text)
            for sample in family.samples if "model_name" in sample.labels} == {'a"\n\\b'}  # fmt: skip


def board() -> dict:
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def queries() -> Iterator[str]:
    for panel in board()["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]


def charted() -> set[str]:
    """Return the names of metrics in all queries of the dashboard."""
    text = " ".join(queries()).replace("${prefix}", "paddlemix")
    return set(re.findall(r"\b(?:paddlemix:\w+|http_requests_total|process_\w+)", text))


def test_the_dashboard_can_be_imported():
    values = board()
    assert values["schemaVersion"] >= 36 and values["uid"] and values["title"]
    panels = values["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 20
    assert {"datasource", "prefix", "model_name"} == {entry["name"] for entry in values["templating"]["list"]}
    for panel in panels:
        assert panel["title"] and {"h", "w", "x", "y"} == set(panel["gridPos"])
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}" and panel["targets"]
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_panels_do_not_overlap():
    cells = set()
    for panel in board()["panels"]:
        at = panel["gridPos"]
        place = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not place & cells, panel["title"]
        cells |= place


def test_brackets_of_queries_close():
    for query in queries():
        for pair in ("()", "{}", "[]"):
            assert query.count(pair[0]) == query.count(pair[1]), query


def test_every_metric_of_the_dashboard_is_exported_and_every_own_metric_is_on_it():
    exported = {name for name, _ in rendered(used())}
    assert charted() <= exported, charted() - exported
    own = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported if name.startswith("paddlemix:")}
    on_it = {re.sub(r"_(bucket|sum|count)$", "", name) for name in charted()}
    assert own <= on_it, own - on_it


def test_every_label_of_a_query_is_exported():
    text = used().render(STATUS)[0].decode()
    labels = {name for family in text_string_to_metric_families(text) for one in family.samples for name in one.labels}
    asked = set(re.findall(r"(\w+)=~?\"", " ".join(queries())))
    asked |= {name for names in re.findall(r"by \(([\w, ]+)\)", " ".join(queries())) for name in names.split(", ")}
    assert asked <= labels, asked - labels
