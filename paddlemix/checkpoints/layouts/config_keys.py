"""The rules of the keys of foreign config.json and generation_config.json files, except for decoders and towers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...foreign_json import (
    FLAG,
    OBJECT,
    TEXT,
    KeyRules,
    Kind,
    check_keys,
    check_values,
    either,
    list_of,
    stated_but_unused,
    whole_number,
)
from ...models.config import LlavaConfig, VisionConfig
from ...models.config_kinds import DTYPES, MAX_ID, MAX_LAYERS
from ...models.language.families.generic_keys import GENERIC, GENERIC_KINDS
from ...tensor_files.stored import CheckpointError
from .folder import Folder

CONFIG_FILE, GENERATION_FILE = "config.json", "generation_config.json"
TOKEN_ID = whole_number(0, MAX_ID)
LAYER = whole_number(-MAX_LAYERS, MAX_LAYERS)
# Keys by which folders are recognized, checked in every config.json.
KINDS: dict[str, Kind] = {
    "architectures": list_of(TEXT, least=0, most=64).or_null(),
    "model_type": TEXT.or_null(),
    "transformers_version": TEXT.or_null(),
    "paddlemix": OBJECT.or_null(),
}

# LlavaForConditionalGeneration and LlavaNextForConditionalGeneration of transformers.
HF = GENERIC | KeyRules(
    used=frozenset(
        """
        architectures dtype image_grid_pinpoints image_token_id image_token_index model_type paddlemix
        projector_hidden_act text_config tie_word_embeddings torch_dtype transformers_version vision_config
        vision_feature_layer vision_feature_select_strategy
        """.split()
    ),
    inert=frozenset(["image_seq_length", "vocab_size"]),  # counted anew; the size is text_config's
    fixed={"multimodal_projector_bias": (True,), "use_image_newline_parameter": (True,)},
)
HF_KINDS: dict[str, Kind] = {
    **GENERIC_KINDS,
    "image_token_id": TOKEN_ID,
    "image_token_index": TOKEN_ID,
    "projector_hidden_act": TEXT,
    "text_config": OBJECT.or_null(),
    "tie_word_embeddings": FLAG,
    "vision_config": OBJECT.or_null(),
    "vision_feature_select_strategy": TEXT,
}

# Keys of LLaVA's own code and LLaVA-NeXT's, beside the decoder's. PaddleMIX took them over.
MM_USED = """
image_aspect_ratio image_grid_pinpoints mm_hidden_size mm_patch_merge_type mm_projector_type mm_resampler_type
mm_use_im_start_end mm_vision_resampler mm_vision_select_feature mm_vision_select_layer mm_vision_tower s2 vision_config
vision_tower
"""
# Settings of training, and of modes that are refused by the keys that choose them.
MM_INERT = """
delay_load freeze_backbone freeze_mm_mlp_adapter freeze_mm_vision_resampler freeze_mm_vision_tower
image_crop_resolution image_split_resolution mm_projector_lr mm_tunable_parts mm_use_im_patch_token
mm_vision_tower_lr pretrain_mm_mlp_adapter s2_resize_size s2_scales sep_image_conv_front tokenizer_model_max_length
tokenizer_padding_side tune_mm_mlp_adapter tune_mm_vision_resampler unfreeze_mm_vision_tower use_mm_proj version
vision_tower_pretrained
"""
MM_VIDEO = """
mm_mask_drop_mode mm_mask_drop_ratio mm_mask_drop_ratio_lower mm_mask_drop_ratio_upper mm_mask_drop_skip_percentage
mm_num_head mm_perceiver_depth mm_perceiver_latents mm_perceiver_ff_mult mm_perceiver_pretrained mm_qformer_depth
mm_qformer_latents mm_qformer_pretrained mm_vision_resampler_depth mm_mask_drop_type
add_faster_video add_time_instruction faster_token_stride force_sample frames_upbound mm_newline_position
mm_resampler_location mm_spatial_pool_mode mm_spatial_pool_out_channels mm_spatial_pool_stride mm_pooling_position
pos_skipping_range
"""
OFFICIAL = KeyRules(
    used=frozenset(MM_USED.split()),
    inert=frozenset(f"{MM_INERT} {MM_VIDEO}".split()),  # videos are not read here
)
MM_FLAGS = """
freeze_mm_mlp_adapter mm_use_im_patch_token mm_use_im_start_end s2 tune_mm_mlp_adapter unfreeze_mm_vision_tower
use_mm_proj
"""
MM_KINDS: dict[str, Kind] = {
    **dict.fromkeys(MM_FLAGS.split(), FLAG.or_null()),
    "image_aspect_ratio": TEXT.or_null(),
    "mm_hidden_size": whole_number(1, 1 << 20),
    "mm_patch_merge_type": TEXT.or_null(),
    "mm_projector_type": TEXT,
    "mm_vision_select_feature": TEXT,
    "mm_vision_select_layer": LAYER,
    "mm_vision_tower": TEXT.or_null(),
    "vision_tower": TEXT.or_null(),
}
PADDLEMIX = OFFICIAL | KeyRules(
    used=frozenset(["rope_scaling_factor", "rope_scaling_type"]),
    fixed={"mm_dense_connector_type": ("none", None), "use_cachekv_int8": (None, False, "None")},
)
# xtuner's projector/config.json.
PROJECTOR = GENERIC | KeyRules(
    used=frozenset("bias depth hidden_act llm_hidden_size visual_hidden_size".split()),
    fixed={"token_merge_ratio": (1, None)},
)
PROJECTOR_KINDS: dict[str, Kind] = {
    **GENERIC_KINDS,
    "bias": FLAG,
    "depth": whole_number(1, 64),
    "llm_hidden_size": whole_number(1, 1 << 20),
    "hidden_act": TEXT,
    "visual_hidden_size": whole_number(1, 1 << 20),
}

# Sampling settings are the caller's. Those that a folder suggests are reported and change nothing.
SAMPLING = """
diversity_penalty do_sample dola_layers early_stopping encoder_no_repeat_ngram_size encoder_repetition_penalty
epsilon_cutoff eta_cutoff exponential_decay_length_penalty guidance_scale length_penalty max_length max_new_tokens
min_length min_new_tokens min_p no_repeat_ngram_size num_beam_groups num_beams num_return_sequences penalty_alpha
remove_invalid_values renormalize_logits repetition_penalty temperature top_h top_k top_p typical_p
"""
RUNNING = """
_from_model_config assistant_confidence_threshold assistant_early_exit assistant_ensemble_weight assistant_lookbehind
attn_implementation cache_config cache_implementation chat_format compile_config continuous_batching_config
disable_compile is_assistant low_memory max_cache_len max_matching_ngram_size max_time max_window_size
num_assistant_tokens num_assistant_tokens_schedule output_attentions output_hidden_states output_logits output_scores
paddlenlp_version prefill_chunk_size prompt_lookup_num_tokens return_dict_in_generate return_legacy_cache
speculation_type target_lookbehind transformers_version trust_remote_code use_cache use_mtp
"""
TOKEN_RULES = """
bad_words_ids begin_suppress_tokens constraints force_words_ids forced_bos_token_id forced_decoder_ids
forced_eos_token_id sequence_bias stop_strings suppress_tokens token_healing watermarking_config
"""
GENERATION = KeyRules(
    used=frozenset(["eos_token_id"]),
    inert=frozenset(f"{RUNNING} bos_token_id decoder_start_token_id pad_token_id".split()),
    fixed=dict.fromkeys(TOKEN_RULES.split(), (None, False)),
    ignored=frozenset(SAMPLING.split()),
)
GENERATION_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("bos_token_id", "pad_token_id"), whole_number(-1, MAX_ID).or_null()),
    "eos_token_id": either(TOKEN_ID, list_of(TOKEN_ID, least=0)).or_null(),
}
# The defaults of `transformers`, which it writes too.
PLAIN_SAMPLING = {
    "diversity_penalty": 0.0,
    "early_stopping": False,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "length_penalty": 1.0,
    "max_length": 20,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
}


def read_config_json(folder: Folder) -> dict[str, Any]:
    """Return config.json after a check of the keys by which folders are recognized. Raises CheckpointError."""
    raw = folder.finite_json(CONFIG_FILE)
    check_values(raw, KINDS, str(folder / CONFIG_FILE), CheckpointError)
    return raw


def config_or_empty(folder: Folder) -> dict[str, Any]:
    """Return config.json as `read_config_json` does, empty if there is none."""
    return read_config_json(folder) if folder.has_any(CONFIG_FILE) else {}


def check_mm(folder: Folder, raw: Mapping[str, Any]) -> None:
    """Raise CheckpointError for keys of LLaVA's own config.json that are not supported."""
    check_values(raw, MM_KINDS, str(folder / CONFIG_FILE), CheckpointError)
    if raw.get("s2"):
        raise CheckpointError(f"{folder}: s2 is set, which is not supported (LLaVA 1 to 1.6 do not use it)")
    if raw.get("mm_resampler_type") or raw.get("mm_vision_resampler"):
        raise CheckpointError(f"{folder}: a resampler between tower and projector is not supported")


def mm_json(config: LlavaConfig) -> dict[str, Any]:
    """Return the keys of a model in LLaVA's own config.json, beside the decoder's and the tower's name."""
    image, vision = config.image, config.vision
    return {
        "image_aspect_ratio": image.mode,
        "image_grid_pinpoints": [list(grid) for grid in image.grids] or None,
        "mm_hidden_size": vision.hidden_size,
        "mm_patch_merge_type": "spatial_unpad" if config.has_image_newline else image.merge,
        "mm_projector_type": config.projector_type,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": config.has_image_marks,
        "mm_vision_select_feature": vision.select_feature,
        "mm_vision_select_layer": vision.select_layer,
        "pretrain_mm_mlp_adapter": None,
        "tokenizer_model_max_length": config.language.max_position_embeddings,
        "tokenizer_padding_side": "right",
        "use_mm_proj": True,
    }


def check_feature_width(folder: Folder, raw: Mapping[str, Any], vision: VisionConfig) -> None:
    """Raise CheckpointError if mm_hidden_size is not the width of the tower."""
    width = raw.get("mm_hidden_size", vision.hidden_size)
    if width != vision.hidden_size:
        raise CheckpointError(
            f"{folder}: mm_hidden_size is {width}, but the features of the tower {vision.name} "
            f"are {vision.hidden_size} wide: it is another tower"
        )


def read_projector_json(folder: Folder) -> dict[str, Any]:
    """Return the config.json of xtuner's projector/. Raises CheckpointError for unsupported values."""
    values = read_config_json(folder)
    check_keys(values, PROJECTOR, str(folder / CONFIG_FILE), CheckpointError)
    check_values(values, PROJECTOR_KINDS, str(folder / CONFIG_FILE), CheckpointError)
    return values


def stored_dtype(folder: Folder, *objects: Mapping[str, Any], default: str = "float32") -> str:
    """Return the dtype in the first of the objects that has one, under the older or the newer key.

    Raises CheckpointError for a dtype that is not supported.
    """
    keys = ("torch_dtype", "dtype")
    stated = next((one[key] for one in objects for key in keys if one.get(key)), default)
    name = stated.removeprefix("torch.") if isinstance(stated, str) else stated
    if name == "auto":
        return default
    if name not in DTYPES:
        raise CheckpointError(f"{folder / CONFIG_FILE} has the dtype {stated!r}, expected one of {', '.join(DTYPES)}")
    return name


def read_generation(folder: Folder) -> dict[str, Any]:
    """Return generation_config.json, empty if there is none. Raises CheckpointError for keys that change answers."""
    path = str(folder / GENERATION_FILE)
    values = folder.finite_json(GENERATION_FILE) if folder.has_any(GENERATION_FILE) else {}
    check_keys(values, GENERATION, path, CheckpointError)
    check_values(values, GENERATION_KINDS, path, CheckpointError)
    return values


def suggested_sampling(folder: Folder) -> dict[str, Any]:
    """Return the sampling settings of generation_config.json, which are not used here. Raises CheckpointError."""
    stated = stated_but_unused(read_generation(folder), GENERATION)
    return {key: value for key, value in stated.items() if value != PLAIN_SAMPLING.get(key)}
