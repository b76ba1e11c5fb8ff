"""A stand-in for the worker: `stub_worker DEVICE RESULTS PART ...`; the device's name selects what goes wrong."""

from __future__ import annotations

import json
import os
import sys
import time

TLS = "/opt/libgomp.so.1"


def do(part: str, device: str) -> dict:
    check = {"name": part, "status": "ok", "facts": [f"{part} in {os.getpid()}"], "advice": [], "values": {}}
    is_plain = os.environ.get("PADDLEMIX_PLAIN_OPS") == "1"
    if device == f"crash-{part}" and not is_plain:
        print(f"== {part} bfloat16\nEZ9999: Inner Error!\nFatalError: `Process abort signal` is detected", flush=True)
        os.abort()
    if device == f"always-{part}":
        os.abort()
    if device == f"hang-{part}":
        time.sleep(60)
    if device == "arm" and TLS not in os.environ.get("LD_PRELOAD", ""):
        check |= {"status": "FAILED", "facts": ["static TLS block"], "values": {"preload": TLS}}
    if device == f"fail-{part}":
        check |= {"status": "FAILED", "facts": ["broken"]}
    return check


if __name__ == "__main__":
    device, results, *parts = sys.argv[1:]
    with open(results, "a") as file:
        for part in parts:
            print(json.dumps({"begin": part}), file=file, flush=True)
            print(json.dumps({"check": do(part, device)}), file=file, flush=True)
            if device == f"fail-{part}":
                break
