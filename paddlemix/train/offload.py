"""Float32 weights that sharding with offload moves in host memory, which Paddle's own state of an optimizer forgets.

Stage 2 writes them and, going on, loads a copy that it does not use; stage 3 writes none. Without them a run goes on
from weights that were rounded to half precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import paddle
from paddlenlp.trainer.trainer_utils import ShardingOption

from .parallel import is_half


def host_weights(optimizer, parameters: Iterable[paddle.Tensor], args) -> dict[str, paddle.Tensor]:
    """Return the weights by name: stage 2 has one buffer, stage 3 one for each parameter; {} without offload."""
    if args.world_size <= 1 or ShardingOption.OFFLOAD not in args.sharding:
        return {}
    if ShardingOption.SHARD_GRAD_OP in args.sharding:
        buffer = optimizer.offload_params.buffer
        return {buffer.name: buffer}
    return {one.name: one.master_weight for one in parameters if not one.stop_gradient and is_half(one)}


@paddle.no_grad()
def restore(weights: Mapping[str, paddle.Tensor], masters: Mapping[str, Any]) -> None:
    """Put back what a checkpoint holds of the weights; one of an earlier version may hold none."""
    for name, tensor in weights.items():
        if name in masters:
            # NOTE: in place, because stage 2 has views of its buffer; `set_value` would give it other memory.
            tensor.zero_()
            tensor.add_(masters[name].cpu())
