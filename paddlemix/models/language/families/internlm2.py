"""InternLM 2 and 2.5: LLaMA with other weight names and a fused query, key and value matrix."""

from __future__ import annotations

from .family import GATE, KEY, QUERY, UP, VALUE, Family, Fused, WeightNames, attention_biases


def _read_options(values) -> dict:
    return attention_biases(values["bias"])


def _write_options(language) -> dict:
    """Return the options. InternLM's own code accepts only `type` and `factor` in rope_scaling."""
    scaling = language.rope_scaling
    stated = None if scaling is None else {"type": scaling.kind, "factor": scaling.factor}
    return {"bias": language.has_qkv_bias, "rope_scaling": stated}


INTERNLM2 = Family(
    name="internlm2",
    title="InternLM2",
    architecture="InternLM2ForCausalLM",
    defaults={"vocab_size": 103168, "bias": True},
    read_options=_read_options,
    write_options=_write_options,
    template="internlm2_chat",
    pad_token_id=2,
    weights=WeightNames(
        renamed={
            "embed_tokens": "tok_embeddings",
            "lm_head": "output",
            "input_layernorm": "attention_norm",
            "post_attention_layernorm": "ffn_norm",
            "self_attn.o_proj": "attention.wo",
            GATE: "feed_forward.w1",
            UP: "feed_forward.w3",
            "mlp.down_proj": "feed_forward.w2",
        },
        fused=(Fused("attention.wqkv", (QUERY, KEY, VALUE), is_grouped=True),),
    ),
    stand_in="llama",
    remote_code=("configuration_internlm2.InternLM2Config", "modeling_internlm2.InternLM2ForCausalLM"),
)
