"""Copy a model folder with its weights in float16: half the size on disk."""

from __future__ import annotations

import argparse
from pathlib import Path

from paddlemix.device import prepare_environment


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-path", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)
    prepare_environment("cpu")
    from paddlemix import LlavaForConditionalGeneration, LlavaProcessor

    LlavaForConditionalGeneration.from_pretrained(arguments.model_path).save_pretrained(
        arguments.output, dtype="float16"
    )
    LlavaProcessor.from_pretrained(arguments.model_path).save_pretrained(arguments.output)
    print(f"{arguments.output}: written")


if __name__ == "__main__":
    main()
