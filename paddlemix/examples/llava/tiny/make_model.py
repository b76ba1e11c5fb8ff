"""Make an untrained tiny LLaVA: a folder with config, tokenizer and random weights by seed."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from paddlemix.device import prepare_environment

HERE = Path(__file__).parent


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=HERE / "model_config.json", help="sizes of the parts")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder that make_tokenizer.py wrote")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    num_parameters = make_model(arguments.config, arguments.tokenizer, arguments.output, arguments.seed)
    print(f"{arguments.output}: an untrained model of {num_parameters:,} parameters")


def make_model(config_file: Path, tokenizer_folder: Path, output: Path, seed: int = 0) -> int:
    """Write a model folder and return its number of parameters."""
    prepare_environment("cpu")
    from paddlemix import LlavaForConditionalGeneration
    from paddlemix.conversation.load_tokenizer import load_tokenizer
    from paddlemix.models.config import LlavaConfig

    values = json.loads(config_file.read_text(encoding="utf-8"))
    initial_std = values.pop("initial_std", {})
    tokenizer = load_tokenizer(tokenizer_folder)
    values["language"]["vocab_size"] = tokenizer.vocab_size
    values["eos_token_ids"] = [tokenizer.eos_id]
    model = LlavaForConditionalGeneration(LlavaConfig.from_dict(values))
    model.initialize_weights(seed)
    _scale(model, initial_std)
    model.save_pretrained(output)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(tokenizer_folder / name, output / name)
    return sum(int(parameter.size) for parameter in model.parameters())


def _scale(model, initial_std: dict[str, float]) -> None:
    """Scale weights drawn with 0.02 to the standard deviation of the longest listed prefix of their name."""
    for name, parameter in model.named_parameters():
        prefix = max((prefix for prefix in initial_std if name.startswith(prefix)), key=len, default=None)
        if prefix is not None and (parameter.ndim > 1 or name.endswith("class_embedding")):
            parameter.set_value(parameter * (initial_std[prefix] / 0.02))


if __name__ == "__main__":
    main()
