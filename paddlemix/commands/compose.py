"""`paddlemix compose`: make a model to start stage 1 from, out of a language model, a vision tower and a projector."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

from ..models.projector_type import PROJECTOR_NAMES
from ..terminal.visible import visible
from .options import add_hub_options, add_output_options, add_template_option, output_options, resolve_models
from .parser import MODEL, add_examples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--language-model", required=True, metavar="DIR", help="a LLaMA folder with its tokenizer, or a LLaVA"
    )
    parser.add_argument(
        "--vision-tower", required=True, metavar="DIR", help="a CLIP or SigLIP model or tower, or a LLaVA"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--projector", metavar="FILE", help="mm_projector.bin, .safetensors or .pdparams (default: random values)"
    )
    parser.add_argument("--mm-projector-type", metavar="TYPE", help=f"{PROJECTOR_NAMES} (default: mlp2x_gelu)")
    parser.add_argument(
        "--image-aspect-ratio",
        choices=("square", "pad", "anyres"),
        default="pad",
        help="how to make an image square (default: pad)",
    )
    parser.add_argument(
        "--image-grid-pinpoints",
        type=_pairs,
        default=(),
        metavar="LIST",
        help="canvas sizes for anyres, (width, height) px: '[[336,672],[672,336]]' (default: the five of LLaVA 1.6)",
    )
    add_template_option(parser, "--template", "the one for the language model")
    parser.add_argument(
        "--mm-vision-select-layer",
        type=int,
        metavar="N",
        help="tower layer to use (default: -2, or the layer that the LLaVA used)",
    )
    parser.add_argument(
        "--mm-vision-select-feature",
        choices=("patch", "cls_patch"),
        default="patch",
        help="features of that layer to use: of the patches, or of the class token too",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PX",
        help="side of an image or tile; the tower's position embeddings are interpolated to it (default: the tower's)",
    )
    parser.add_argument(
        "--image-marks",
        action="store_true",
        help="put the tokens <im_start> and <im_end> around each image, as LLaVA's first versions do "
        "(mm_use_im_start_end), and add them to the language model",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random values (default: 0)")
    add_output_options(parser)
    add_hub_options(parser)
    add_examples(parser, f"paddlemix compose --language-model {MODEL} --vision-tower {MODEL} --output work_dirs/start")


def _pairs(text: str) -> tuple[tuple[int, int], ...]:
    try:
        return tuple((int(width), int(height)) for width, height in ast.literal_eval(text))
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of pairs like [[336,672],[672,336]]") from None


def run(arguments: argparse.Namespace) -> int:
    """Write the folder and list the parts with random values."""
    from ..checkpoints.compose import Choices, compose
    from ..conversation.templates import get_template

    if arguments.seed < 0:
        raise ValueError(f"--seed {arguments.seed} is below 0")
    if arguments.image_size is not None and arguments.image_size < 1:
        raise ValueError(f"--image-size {arguments.image_size} is below 1 px")
    choices = Choices(
        projector=Path(arguments.projector) if arguments.projector else None,
        projector_type=arguments.mm_projector_type,
        mode=arguments.image_aspect_ratio,
        grids=arguments.image_grid_pinpoints,
        template=arguments.template and get_template(arguments.template).name,
        select_layer=arguments.mm_vision_select_layer,
        select_feature=arguments.mm_vision_select_feature,
        seed=arguments.seed,
        image_size=arguments.image_size,
        has_image_marks=arguments.image_marks,
    )
    parts = resolve_models(arguments, arguments.language_model, arguments.vision_tower)
    config = compose(*parts, arguments.output, choices, **output_options(arguments, "compose"))
    print(visible(f"composed {arguments.output} from {arguments.language_model} and {arguments.vision_tower}"))
    if config.untrained:
        print(
            f"random values: {', '.join(config.untrained)}; train them with `paddlemix pretrain` before anything else"
        )
    return 0
