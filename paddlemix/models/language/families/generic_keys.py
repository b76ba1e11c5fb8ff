"""Keys that the config.json of any model of transformers (4 and 5) or PaddleNLP may have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ....foreign_json import FLAG, TEXT, KeyRules, Kind, either, list_of, number, whole_number
from ...config_kinds import MAX_ID, MAX_WIDTH

# The origin of the file, and how a program runs the model.
ORIGIN = """
_attn_implementation _attn_implementation_autoset _attn_implementation_internal _commit_hash _experts_implementation
_name_or_path architectures attn_implementation auto_map base_model_name_or_path custom_pipelines dtype
experts_implementation finetuned_from init_config is_llama_config license model_name model_type name_or_path
paddlemix paddlenlp_version return_dict torch_dtype torchscript transformers.js_config transformers_version
unsloth_fixed unsloth_version use_cache
"""
# For training and labels only.
TRAINING = """
attention_dropout attn_pdrop classifier_dropout emb_pdrop embd_pdrop finetuning_task gradient_checkpointing
hidden_dropout id2label ignore_index init_device init_std initializer_cutoff_factor initializer_factor
initializer_range label2id max_sequence_length max_window_size num_choices num_labels output_attentions
output_hidden_states output_router_logits pretraining_tp problem_type resid_pdrop residual_dropout
router_aux_loss_coef seq_length task_specific_params tf_legacy_loss tokenizer_class tokenizer_name torch_compile
use_bfloat16 verbose
"""
# Suggestions for sampling in old files, see `generation_keys`.
SAMPLING = """
diversity_penalty do_sample early_stopping length_penalty max_length max_new_tokens min_length num_beam_groups num_beams
num_return_sequences output_scores repetition_penalty return_dict_in_generate temperature top_k top_p typical_p
exponential_decay_length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size remove_invalid_values
"""
TOKENS = "bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id decoder_start_token_id prefix"
# How PaddleNLP runs a model, with the same results.
PADDLE = """
fuse_sequence_parallel_allreduce immediate_clear_past_key_value no_recompute_layers offload_recompute_inputs
pp_recompute_interval recompute recompute_granularity recompute_use_reentrant refined_recompute sequence_parallel
tensor_parallel_degree tensor_parallel_output tensor_parallel_rank pipeline_parallel_degree virtual_pp_degree
sep_parallel_degree context_parallel_degree use_flash_attention use_flash_attention_for_generation use_fused_dropout_add
use_fused_linear use_fused_linear_cross_entropy use_fused_rms_norm use_fused_rope use_last_token_for_generation
long_sequence_init_args long_sequence_strategy_name long_sequence_strategy_type dpo_config
"""
# The only supported values.
FIXED = {
    "add_cross_attention": (False,),
    "alibi": (False,),
    "chunk_size_feed_forward": (0,),
    "cross_attention_hidden_size": (None,),
    "fuse_attention_ffn": (False,),
    "fuse_attention_qkv": (False,),
    "is_causal": (True,),  # if false, transformers 5 lets every position see all others
    "is_decoder": (False, True),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
    "tie_encoder_decoder": (False,),
    "use_long_sequence_strategies": (False,),
}
# Rules for single tokens that would change answers.
TOKEN_RULES = {
    "bad_words_ids": (None,),
    "begin_suppress_tokens": (None,),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "suppress_tokens": (None,),
}

GENERIC = KeyRules(
    # quantization_config is refused with advice when the weights are opened.
    used=frozenset(["quantization_config", *TOKENS.split()]),
    inert=frozenset(f"{ORIGIN} {TRAINING} {SAMPLING} {PADDLE}".split()),
    fixed={**FIXED, **TOKEN_RULES},
)
TOKEN_ID = whole_number(-1, MAX_ID)  # -1 means none in older files
RATE, SPREAD = number(0.0, 1.0).or_null(), number(0.0, 1e6).or_null()
# Valid values of keys that change nothing here: no tool writes others.
GENERIC_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("bos_token_id", "pad_token_id", "unk_token_id", "sep_token_id"), TOKEN_ID.or_null()),
    "eos_token_id": either(TOKEN_ID, list_of(TOKEN_ID, least=0)).or_null(),
    "architectures": list_of(TEXT, least=0, most=64).or_null(),
    **dict.fromkeys(("model_type", "dtype", "torch_dtype", "transformers_version"), TEXT.or_null()),
    **dict.fromkeys(("attention_dropout", "attn_pdrop", "embd_pdrop", "hidden_dropout", "resid_pdrop"), RATE),
    **dict.fromkeys(("initializer_range", "initializer_factor", "init_std"), SPREAD),
    **dict.fromkeys(("use_cache", "return_dict", "torchscript", "gradient_checkpointing"), FLAG.or_null()),
    **dict.fromkeys(("pretraining_tp", "image_seq_length", "projection_dim"), whole_number(0, MAX_WIDTH).or_null()),
}


def written_since(raw: Mapping[str, Any], *version: int) -> bool:
    """Return whether a file states that this version of transformers or a later one wrote it."""
    numbers = re.match(r"(\d+)\.(\d+)", raw.get("transformers_version") or "")
    return numbers is not None and tuple(map(int, numbers.groups())) >= version
