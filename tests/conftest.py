"""What must be set before paddle is imported."""

from paddlemix.device import prepare_environment

prepare_environment("cpu")
