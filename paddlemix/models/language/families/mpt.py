"""MosaicML's MPT (7B, 30B): ALiBi, LayerNorm without biases, no gate, fused query, key and value matrices."""

from __future__ import annotations

from ....foreign_json import KeyRules, check_keys
from .family import KEY, QUERY, UP, VALUE, Family, Fused, WeightNames
from .generic_keys import GENERIC

EXPANSION = 4  # the only value of transformers' class
# The supported values of keys in config.json and its attn_config; the first is the default.
FIXED = {
    "expansion_ratio": (EXPANSION,),
    "no_bias": (True,),
    "logit_scale": (None,),
    "norm_type": ("low_precision_layernorm", "layernorm"),
}
FIXED_ATTENTION = {
    "attn_type": ("multihead_attention",),
    "alibi": (True,),
    "alibi_bias_max": (8,),
    "qk_ln": (False,),
    "qk_gn": (False,),
    "prefix_lm": (False,),
    "attn_uses_sequence_id": (False,),
    "rope": (False,),
    "sliding_window_size": (-1,),
}
# Keys that choose an implementation of attention, or configure rotary positions, which `rope` switches on.
INERT_ATTENTION = "attn_impl attn_pdrop fused_qkv rope_theta rope_impl rope_dail_config rope_hf_config".split()
ATTENTION_RULES = GENERIC | KeyRules(
    used=frozenset(["clip_qkv", "softmax_scale"]),
    inert=frozenset(["tie_word_embeddings", *INERT_ATTENTION]),
    fixed={**FIXED_ATTENTION, "kv_n_heads": (None,)},
)


def _read_options(values) -> dict:
    attention = values["attn_config"] or {}
    check_keys(attention, ATTENTION_RULES, "attn_config of an MPT")
    return {
        "intermediate_size": EXPANSION * values["hidden_size"],
        "norm": "layer",
        "activation": "gelu",
        "is_gated": False,
        "positions": "alibi",
        "clip_qkv": attention.get("clip_qkv") or None,
        "softmax_scale": attention.get("softmax_scale"),
    }


def _write_options(language) -> dict:
    attention = {key: allowed[0] for key, allowed in FIXED_ATTENTION.items() if key not in ("qk_gn", "rope")}
    del attention["sliding_window_size"]
    return {
        "attn_config": {
            **attention,
            "attn_impl": "torch",
            "attn_pdrop": 0.0,
            "clip_qkv": language.clip_qkv,
            "softmax_scale": language.softmax_scale,
        },
        **{key: allowed[0] for key, allowed in FIXED.items()},
        "emb_pdrop": 0.0,
        "resid_pdrop": 0.0,
    }


MPT = Family(
    name="mpt",
    title="MosaicML MPT",
    architecture="MptForCausalLM",
    llava_architecture="LlavaMptForCausalLM",
    llava_model_type="llava_mpt",
    defaults={
        "vocab_size": 50368,
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "hidden_act": "gelu",
        "attn_config": None,
    },
    keys={
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "max_position_embeddings": "max_seq_len",
        "rms_norm_eps": "layer_norm_epsilon",
        **dict.fromkeys(("intermediate_size", "num_key_value_heads", "head_dim", "rope_theta", "rope_scaling")),
        **dict.fromkeys(("attention_dropout", "hidden_act")),
    },
    activations={"gelu": "gelu"},
    weights=WeightNames(
        body="transformer",
        renamed={
            "embed_tokens": "wte",
            "norm": "norm_f",
            "layers": "blocks",
            "input_layernorm": "norm_1",
            "post_attention_layernorm": "norm_2",
            "self_attn.o_proj": "attn.out_proj",
            UP: "ffn.up_proj",
            "mlp.down_proj": "ffn.down_proj",
        },
        fused=(Fused("attn.Wqkv", (QUERY, KEY, VALUE)),),
    ),
    read_options=_read_options,
    write_options=_write_options,
    template="mpt",
    bos_token_id=None,
    eos_token_id=None,
    aliases=("hidden_size", "num_hidden_layers", "num_attention_heads"),
    fixed_keys=FIXED,
    inert_keys=("learned_pos_emb", "embedding_fraction"),
)
