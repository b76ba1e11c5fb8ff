"""What must be set before paddle is imported, and that no test asks a hub of the world."""

import os

from paddlemix.device import prepare_environment

os.environ["PADDLEMIX_OFFLINE"] = "1"
prepare_environment("cpu")
