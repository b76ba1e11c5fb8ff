"""Prepare the environment before paddle is imported, and keep all tests off the network's hubs."""

import os

from paddlemix.device import prepare_environment

os.environ["PADDLEMIX_OFFLINE"] = "1"
prepare_environment("cpu")
