"""Composing a model for stage 1: a language model, a vision tower and a projector, written to one folder of ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..conversation.load_tokenizer import make_tokenizer
from ..conversation.templates import IMAGE_MARKS
from ..conversation.tokenizer import Tokenizer
from ..conversation.tokenizer_files import TokenizerFiles
from ..conversation.vocabulary_choice import read_files
from ..image.spec import ImageSpec
from ..models.config import LanguageConfig, LlavaConfig, VisionConfig
from ..models.language.families import FAMILIES
from ..models.vision.families import TOWER_FAMILIES
from ..tensor_files.stored import CheckpointError, StoredTensor
from ..tensor_files.transforms import cast
from ..terminal.log import notice
from .image_marks import NUM_MARKS, has_marks, marks_of, with_mark_rows, with_mark_tokens
from .layouts import decoder, tower
from .layouts import own_folder as layout
from .layouts.components import EMBEDDING
from .layouts.config_keys import read_config_json
from .layouts.folder import Folder
from .layouts.output_part import read_own_json
from .layouts.positions import resize_tower
from .layouts.shapes import check_complete
from .output_folder import OutputFolder
from .projector_file import fresh_newline, fresh_projector, read_projector
from .source import Source, open_source
from .write import write_folder

NAMES = " or ".join(family.architecture for family in FAMILIES.values())
TOWERS = " or ".join(family.architecture for family in TOWER_FAMILIES.values())
# LLaVA 1.6's canvases (width, height), in tiles.
GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))


@dataclass(frozen=True)
class Choices:
    """The settings that do not follow from the parts.

    projector: a file, None for random values of projector_type, drawn from seed. projector_type: None for that of the
    file, else mlp2x_gelu. mode: of ImageSpec. grids: (width, height) in pixels for anyres, none for those of LLaVA 1.6
    in tiles of the tower. template: None for the language model's. select_layer, select_feature: of VisionConfig. A
    layer of None is that of a whole LLaVA, and -2 for a tower alone. image_size: px, to which the tower's position
    embeddings are interpolated, None for the tower's own. has_image_marks: each image is between two tokens, which are
    added to a language model that has none.
    """

    projector: Path | None = None
    projector_type: str | None = None
    mode: str = "pad"
    grids: Sequence[tuple[int, int]] = ()
    template: str | None = None
    select_layer: int | None = None
    select_feature: str = "patch"
    seed: int = 0
    image_size: int | None = None
    has_image_marks: bool = False


@dataclass(frozen=True)
class _Language:
    """has_image_marks: of a whole LLaVA, whose decoder was trained with them."""

    config: LanguageConfig
    tensors: dict[str, StoredTensor]
    tokenizer_files: TokenizerFiles
    tokenizer: Tokenizer
    eos_token_ids: tuple[int, ...]
    template: str
    has_image_marks: bool = False


@dataclass(frozen=True)
class _Tower:
    config: VisionConfig
    tensors: dict[str, StoredTensor]
    pixels: dict[str, Any]


def compose(
    language_model,
    vision_tower,
    output,
    choices: Choices,
    *,
    max_shard_size: int | str = "5GB",
    title: str | None = None,
    is_overwriting: bool = False,
) -> LlavaConfig:
    """Write the folder and return its config, whose `untrained` lists the parts with random values.

    language_model: a folder of LlamaForCausalLM or a similar class, with its tokenizer. vision_tower: a folder of
    CLIPVisionModel or SiglipVisionModel, also with text models and heads, which are dropped. Either may be a whole
    LLaVA in any layout, of which that part is used. Weights keep their dtypes. New ones get that of the language model.
    title: of a progress bar. is_overwriting: see `OutputFolder`. Raises CheckpointError.
    """
    language = _open_language(Folder.of(language_model))
    eyes = _open_tower(Folder.of(vision_tower), choices)
    dtype = language.tensors[EMBEDDING].dtype
    image = _image(eyes, choices)
    new, projector_type, untrained = _connection(language.config, eyes.config, image, choices)
    language = _with_marks(language, new.pop(EMBEDDING, None), choices)
    config = LlavaConfig(
        language=language.config,
        vision=eyes.config,
        projector_type=projector_type,
        image=image,
        template=choices.template or language.template,
        dtype=dtype,
        has_image_newline=_has_newline(image),
        eos_token_ids=language.eos_token_ids,
        untrained=untrained,
        has_image_marks=language.has_image_marks,
    )
    new = {name: cast(tensor, dtype) for name, tensor in new.items()}
    tensors = {**eyes.tensors, **new, **language.tensors}
    check_complete(f"{language_model}, {vision_tower} and the projector", config, tensors)
    write_folder(
        OutputFolder(Path(output), "compose", is_overwriting).checked([Path(language_model), Path(vision_tower)]),
        layout.parts(config, tensors),
        max_shard_size=max_shard_size,
        finish=language.tokenizer.save,
        title=title,
    )
    return config


def _open_language(folder: Folder) -> _Language:
    """Open the language model in a decoder's folder or in a LLaVA. Raises CheckpointError."""
    if decoder.is_decoder(folder):
        config, raw, stored = decoder.read_language_folder(folder)
        tensors, ends = stored.checked(folder), decoder.read_eos(folder, raw, config)
        chat = decoder.template_of(read_own_json({}), config, folder)
        files = _tokenizer_files(folder)
        found = _Language(config, tensors, files, _tokenizer(files), ends, chat.name)
        notices = [chat.notice, files.notice]
    else:
        whole = _open_whole(folder, "language model", f"a {NAMES} with safetensors or .bin files")
        files, stated = whole.tokenizer_files or _tokenizer_files(folder), whole.config
        tensors, tokenizer = _starting_with(whole.tensors, "language_model."), _tokenizer(files)
        texts = stated.eos_token_ids, stated.template, stated.has_image_marks
        found = _Language(stated.language, tensors, files, tokenizer, *texts)
        notices = whole.notices
    for text in filter(None, notices):
        notice(text)
    if EMBEDDING not in found.tensors:
        raise CheckpointError(f"{folder} has no token embeddings: the weights of the language model are incomplete")
    if found.tokenizer.vocab_size > found.config.vocab_size:
        raise CheckpointError(
            f"the tokenizer of {folder} has ids up to {found.tokenizer.vocab_size - 1}, but the language model has "
            f"{found.config.vocab_size} rows only"
        )
    return found


def _tokenizer_files(folder: Folder) -> TokenizerFiles:
    try:
        return folder.tokenizer_files() or read_files(folder.path)  # which raises for a folder without one
    except ValueError as error:
        raise CheckpointError(f"the language model needs its tokenizer: {error}") from None


def _tokenizer(files: TokenizerFiles) -> Tokenizer:
    try:
        return make_tokenizer(files)
    except ValueError as error:
        raise CheckpointError(f"the language model needs its tokenizer: {error}") from None


def _with_marks(language: _Language, trained: StoredTensor | None, choices: Choices) -> _Language:
    """Return the language model with the tokens around an image, if they are wanted and it has none.

    trained: token embeddings of the projector's file. Raises CheckpointError where they do not fit.
    """
    has_tokens = has_marks(language.tokenizer)
    if trained is not None and (has_tokens or not choices.has_image_marks):
        fix = "name the language model of before stage 1" if has_tokens else "add --image-marks"
        raise CheckpointError(
            f"{choices.projector} has token embeddings beside the projector, of a language model to which "
            f"{' and '.join(IMAGE_MARKS)} are added: {fix}"
        )
    if has_tokens or not choices.has_image_marks:
        return dataclasses.replace(language, has_image_marks=language.has_image_marks or choices.has_image_marks)
    start = language.tokenizer.vocab_size
    num_rows = max(language.config.vocab_size, start + NUM_MARKS)
    files = with_mark_tokens(language.tokenizer_files, start)
    return dataclasses.replace(
        language,
        config=dataclasses.replace(language.config, vocab_size=num_rows),
        tensors=with_mark_rows(language.tensors, start, marks_of(choices.projector, trained, num_rows)),
        tokenizer_files=files,
        tokenizer=_tokenizer(files),
        has_image_marks=True,
    )


def _open_tower(folder: Folder, choices: Choices) -> _Tower:
    """Open the tower in a tower's folder or in a LLaVA, resized to the chosen image size. Raises CheckpointError."""
    if tower.is_tower(folder) and tower.is_tower_type(read_config_json(folder).get("model_type")):
        chosen = -2 if choices.select_layer is None else choices.select_layer
        config, stored = tower.read_tower_folder(folder, chosen, choices.select_feature)
        tensors = stored.checked(folder)
        pixels = tower.read_pixels(config, folder)
    else:
        whole = _open_whole(folder, "vision tower", f"a {TOWERS} with safetensors or .bin files")
        image, config = whole.config.image, whole.config.vision
        chosen = config.select_layer if choices.select_layer is None else choices.select_layer
        config = dataclasses.replace(config, select_layer=chosen, select_feature=choices.select_feature)
        tensors = _starting_with(whole.tensors, "vision_tower.")
        pixels = image.pixels
    if pixels.get("resize") is not None and choices.image_size not in (None, config.image_size):
        raise CheckpointError(
            f"the images of {folder} are resized to {list(pixels['resize'])} px for a side of {config.image_size} px, "
            f"so that the tower cannot be fitted to {choices.image_size} px"
        )
    return _Tower(*resize_tower(config, tensors, choices.image_size or config.image_size), pixels)


def _open_whole(folder: Folder, part: str, expected: str) -> Source:
    """Open a LLaVA of which one part is used. Raises CheckpointError that says what else the folder could be."""
    try:
        source = open_source(folder).without_added_rows()
        assert source.tensors  # raises for tensors that do not fit
        return source
    except CheckpointError as error:
        raise CheckpointError(f"no {part} in {folder}: expected {expected}, or a whole LLaVA, but {error}") from None


def _starting_with(tensors: dict[str, StoredTensor], start: str) -> dict[str, StoredTensor]:
    return {name: tensor for name, tensor in tensors.items() if name.startswith(start)}


def _image(eyes: _Tower, choices: Choices) -> ImageSpec:
    side, is_anyres = eyes.config.image_size, choices.mode == "anyres"
    if choices.grids and not is_anyres:
        raise CheckpointError(f"grids are for image mode 'anyres' only, found {choices.mode!r}")
    has_class_token = choices.select_feature == "cls_patch"
    return ImageSpec(
        side=side,
        patch_size=eyes.config.patch_size,
        mode=choices.mode,
        grids=tuple(choices.grids or [(side * width, side * height) for width, height in GRIDS]) if is_anyres else (),
        merge="spatial_unpad" if is_anyres and not has_class_token else "flat",
        has_class_token=has_class_token,
        **eyes.pixels,
    )


def _has_newline(image: ImageSpec) -> bool:
    return image.mode == "anyres" and image.merge == "spatial_unpad"


def _connection(
    language: LanguageConfig, vision: VisionConfig, image: ImageSpec, choices: Choices
) -> tuple[dict[str, StoredTensor], str, tuple[str, ...]]:
    """Return the tensors outside language model and tower, the projector's type, and the names of untrained parts."""
    widths = vision.hidden_size, language.hidden_size
    if choices.projector is None:
        projector_type = choices.projector_type or "mlp2x_gelu"
        tensors, untrained = fresh_projector(projector_type, *widths, choices.seed), ("projector",)
        untrained = untrained if tensors else ()
    else:
        tensors, projector_type = read_projector(choices.projector)
        untrained = ()
        if choices.projector_type not in (None, projector_type):
            raise CheckpointError(f"{choices.projector} is of type {projector_type}, not {choices.projector_type}")
    if _has_newline(image) and "image_newline" not in tensors:
        tensors = {**tensors, "image_newline": fresh_newline(language.hidden_size, choices.seed)}
        untrained = (*untrained, "image_newline")
    if not _has_newline(image):
        tensors.pop("image_newline", None)
    return tensors, projector_type, untrained
