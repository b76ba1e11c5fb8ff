"""The formats of rows, by name: one file each. The other files here serve all of them."""

from __future__ import annotations

from . import exchanges, llava, messages, pairs, query

READERS = {"pairs": pairs, "llava": llava, "messages": messages, "exchanges": exchanges, "query": query}
