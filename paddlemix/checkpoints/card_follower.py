"""What `card_processes` runs on the other cards: load a part of the model, and repeat what the leader computes.

Standard input is open as long as the leader exists. Nothing else ends this process: a signal to all processes of a
service is the leader's to obey.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

from ..device import prepare_environment
from ..terminal.log import print_error
from .card_processes import join_cards
from .source import open_source


def main(text: str) -> int:
    """Follow. text: the path of the model, and the fields of `card_processes.Loading`, as JSON."""
    threading.Thread(target=_end_with_leader, daemon=True).start()
    _ignore_signals()
    options = json.loads(text)
    prepare_environment(options["device"])
    from ..models.parallel.follower import Follower
    from .load import load_model

    try:
        source = open_source(Path(options["path"]), options["base"])
        chosen = {name: options[name] for name in ("dtype", "device", "quantization")}
        model = load_model(source, **chosen, cards=join_cards(options["device"]))
    except (ValueError, OSError) as error:
        print_error(error)
        return 1
    _ignore_signals()  # again: paddle has set its own
    Follower(model.language_model).follow()
    return 0


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _end_with_leader() -> None:
    """End this process when the leader has ended: a collective operation would wait for it forever."""
    os.read(0, 1)  # not by sys.stdin, whose lock would be held in processes that paddle forks
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
