"""What an engine has done and is doing, as numbers for a monitor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineCounts:
    """Counters since an engine's start, and gauges of now.

    num_places: that running sequences take, slots times the longest one; max_places: that the cache may hold.
    prefix_queries: places of prompts that got a slot; prefix_hits: of these, places that were known. image_queries:
    images of these prompts; image_hits: of these, images that needed no encoding. num_encoded: images that were
    encoded; encode_seconds: in the vision tower; on a card only until the work was queued there, because waiting for it
    would slow it down.
    """

    num_running: int = 0
    num_waiting: int = 0
    num_preemptions: int = 0
    num_failures: int = 0
    num_places: int = 0
    max_places: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    image_queries: int = 0
    image_hits: int = 0
    num_encoded: int = 0
    encode_seconds: float = 0.0
