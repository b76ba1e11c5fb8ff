"""Settings of paddlenlp's Trainer that lead past this project's checkpoints: other files, other readers of them."""

from __future__ import annotations

from typing import Any

# A setting -> why it is refused when it says anything but false, 0 or nothing.
CHECKPOINTS = "checkpoints are written and read in one way here"
DIVIDED = "its state of the optimizer would be cut in a way that checkpoints here do not have"
REFUSED = {
    "unified_checkpoint_config": CHECKPOINTS,
    "save_sharded_model": CHECKPOINTS,
    "load_sharded_model": CHECKPOINTS,
    "use_async_save": CHECKPOINTS,
    "pdc_download_ckpt": "checkpoints are not downloaded from a cluster's store",
    "enable_auto_parallel": "layers are not cut over processes here",
    "auto_parallel_resume_form_hybrid_parallel": "layers are not cut over processes here",
    "use_expert_parallel": "LLaVA's layers have no experts",
    "flatten_param_grads": DIVIDED,
}
# Words of sharding_parallel_config that cut or join the parameters an optimizer sees.
JOINED = ("split_param", "enable_stage1_tensor_fusion", "enable_stage1_overlap", "enable_fuse_optimizer_states")


def check_supported(asked: dict[str, Any]) -> None:
    """Raise ValueError for a setting that does not work with this project's checkpoints. asked: raw settings."""
    for key, reason in REFUSED.items():
        if asked.get(key) not in (None, False, 0, "", "0", []):
            raise ValueError(f"{key} is {asked[key]!r}: {reason}; leave it out")
    if asked.get("ckpt_quant_stage", "O0") != "O0":
        raise ValueError(f"ckpt_quant_stage is {asked['ckpt_quant_stage']!r}: {CHECKPOINTS}; leave it out")
    words = asked.get("sharding_parallel_config") or ""
    found = [word for word in (words.replace(",", " ").split() if isinstance(words, str) else words) if word in JOINED]
    if found:
        raise ValueError(f"sharding_parallel_config has {' '.join(found)}: {DIVIDED}; leave it out")
