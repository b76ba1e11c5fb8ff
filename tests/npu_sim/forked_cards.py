"""Train configurations on one and on several cards: `forked_cards.py 1 sft:FILE ... 2 sft:FILE sft:FILE 4 sft:FILE`.

A number begins a group: its configurations are trained one after another by as many processes, see `cards`. All of them
are forked from this one, which has imported everything, because that takes most of the time. What the launcher does is
tested elsewhere.
"""

from __future__ import annotations

import os
import sys
import traceback

import cards
from paddle.distributed import parallel

from paddlemix.checkpoints.card_processes import card_variables, free_endpoints


def main(words: list[str]) -> int:
    """Train all groups; return 1 after the first that has failed."""
    groups: list[tuple[int, list[str]]] = []
    for word in words:
        if word.isdecimal():
            groups.append((int(word), []))
        else:
            groups[-1][1].append(word)
    return int(any(map(has_failed, groups)))


def has_failed(group: tuple[int, list[str]]) -> bool:
    """Train a group of configurations; return whether one of its processes has failed."""
    num_cards, items = group
    endpoints = free_endpoints(num_cards)
    children = [start(rank, endpoints, items) for rank in range(num_cards)]
    statuses = [os.waitpid(child, 0)[1] for child in children]
    return any(statuses)


def start(rank: int, endpoints: list[str], items: list[str]) -> int:
    """Return the number of a new process that trains as one of the cards."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        if len(endpoints) > 1:
            os.environ.update(card_variables("npu", endpoints, rank, rank))
            parallel._global_parallel_env = None  # Paddle has read the variables when it was imported
        code = cards.main(items)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
