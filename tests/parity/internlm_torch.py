"""InternLM 1 and 2 written down once more in torch, from their configurations; modules are named as in their files.

Nothing here is shared with the package: rotary positions are products of complex numbers, the rows of `wqkv` are taken
apart as axes of what it computes, and there is no cache.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

SHAPE = {
    "vocab_size": 99,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "torch_dtype": "float32",
}
CONFIGS = {
    1: {
        "architectures": ["InternLMForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_internlm.InternLMForCausalLM"},
        "model_type": "internlm",
        "bias": True,
        **SHAPE,
    },
    2: {
        "architectures": ["InternLM2ForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM"},
        "model_type": "internlm2",
        "bias": False,
        "num_key_value_heads": 2,
        "rope_theta": 5000.0,
        **SHAPE,
    },
}


class Norm(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config["hidden_size"]))
        self.epsilon = config["rms_norm_eps"]

    def forward(self, x):
        return self.weight * x / torch.sqrt(x.square().mean(-1, keepdim=True) + self.epsilon)


def rotated(x: torch.Tensor, base: float) -> torch.Tensor:
    """Rotate x [B, heads, T, D]: components d and d + D/2 of place t are complex, times exp(i t base^(-2d/D))."""
    half = x.shape[-1] // 2
    speeds = base ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(x.shape[2], dtype=torch.float64)[:, None] * speeds
    result = torch.complex(x[..., :half].double(), x[..., half:].double()) * torch.exp(1j * angles)
    return torch.cat([result.real, result.imag], -1).float()


def attend(query, key, value, base: float) -> torch.Tensor:
    """query [B, heads, T, D], key and value [B, kv heads, T, D] -> [B, T, heads * D], causal."""
    query, key = rotated(query, base), rotated(key, base)
    outputs = []
    for head in range(query.shape[1]):
        shared = head * key.shape[1] // query.shape[1]
        scores = query[:, head] @ key[:, shared].transpose(1, 2) / query.shape[-1] ** 0.5
        scores = scores.masked_fill(torch.ones_like(scores[0]).triu(1).bool(), float("-inf"))
        outputs.append(scores.softmax(-1) @ value[:, shared])
    return torch.cat(outputs, -1)


class Attention1(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        self.num_heads = config["num_attention_heads"]
        self.base = config.get("rotary", {}).get("base", 10000)
        width = config["hidden_size"]
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(width, width, bias=config["bias"]))

    def forward(self, x):
        heads = [self._heads(layer(x)) for layer in (self.q_proj, self.k_proj, self.v_proj)]
        return self.o_proj(attend(*heads, self.base))

    def _heads(self, x):
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Attention2(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        width, num_heads, self.num_keys = (
            config[name] for name in ("hidden_size", "num_attention_heads", "num_key_value_heads")
        )
        self.dim, self.num_shared, self.base = width // num_heads, num_heads // self.num_keys, config["rope_theta"]
        self.wqkv = nn.Linear(width, (num_heads + 2 * self.num_keys) * self.dim, bias=config["bias"])
        self.wo = nn.Linear(width, width, bias=config["bias"])

    def forward(self, x):
        # For each key-value head: the queries that share it, the key, the value.
        parts = self.wqkv(x).unflatten(-1, (self.num_keys, self.num_shared + 2, self.dim)).permute(2, 3, 0, 1, 4)
        query = torch.stack([parts[group, place] for group in range(self.num_keys) for place in range(self.num_shared)])
        key, value = parts[:, self.num_shared], parts[:, self.num_shared + 1]
        return self.wo(attend(*(part.transpose(0, 1) for part in (query, key, value)), self.base))


class Layer(nn.Module):
    """names: of the two norms, attention, feed-forward and its gate, up and down."""

    def __init__(self, config: dict, attention: nn.Module, names: tuple[str, ...]):
        super().__init__()
        width, inner = config["hidden_size"], config["intermediate_size"]
        self.names = names
        mlp = nn.Module()
        for name, (num_in, num_out) in zip(names[4:], ((width, inner), (width, inner), (inner, width)), strict=True):
            setattr(mlp, name, nn.Linear(num_in, num_out, bias=False))
        for name, module in zip(names[:4], (Norm(config), Norm(config), attention, mlp), strict=True):
            setattr(self, name, module)

    def forward(self, x):
        first, second, attention, mlp = (getattr(self, name) for name in self.names[:4])
        gate, up, down = (getattr(mlp, name) for name in self.names[4:])
        x = x + attention(first(x))
        y = second(x)
        return x + down(F.silu(gate(y)) * up(y))


NAMES = {
    1: (
        *("input_layernorm", "post_attention_layernorm", "self_attn", "mlp", "gate_proj", "up_proj", "down_proj"),
        *("embed_tokens", "lm_head"),
    ),
    2: ("attention_norm", "ffn_norm", "attention", "feed_forward", "w1", "w3", "w2", "tok_embeddings", "output"),
}


class InternLM(nn.Module):
    """A seeded random model; forward: embeddings [B, T, width] to logits. version: 1 or 2; changes: of its config."""

    def __init__(self, version: int, seed: int = 0, **changes):
        super().__init__()
        torch.manual_seed(seed)
        self.config = config = {**CONFIGS[version], **changes}
        *names, self.embeddings_name, self.head_name = NAMES[version]
        attention = {1: Attention1, 2: Attention2}[version]
        self.model = nn.Module()
        setattr(self.model, self.embeddings_name, nn.Embedding(config["vocab_size"], config["hidden_size"]))
        layers = [Layer(config, attention(config), tuple(names)) for _ in range(config["num_hidden_layers"])]
        self.model.layers = nn.ModuleList(layers)
        self.model.norm = Norm(config)
        setattr(self, self.head_name, nn.Linear(config["hidden_size"], config["vocab_size"], bias=False))
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.16)
            else:
                nn.init.uniform_(parameter, *((0.5, 1.5) if "norm" in name else (-0.5, 0.5)))
        self.eval()

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        return getattr(self.model, self.embeddings_name)(token_ids)

    def forward(self, x):
        for layer in self.model.layers:
            x = layer(x)
        return getattr(self, self.head_name)(self.model.norm(x))

    def save(self, folder: Path) -> Path:
        """Write config.json and the weights as InternLM's folders hold them."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        state = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
