"""Dropout (Srivastava et al. 2014)."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from .kernel_checks import kind_of


def dropout(x, probability: float, is_training: bool):
    """Return x, in training with random elements set to zero and the others scaled up.

    Ascend has no kernel for bfloat16 and would compute it on the CPU.
    """
    if kind_of(x) == "npu" and x.dtype == paddle.bfloat16 and is_training:
        return F.dropout(x.astype("float32"), probability, training=True).astype(x.dtype)
    return F.dropout(x, probability, training=is_training)


class Dropout(nn.Dropout):
    """A layer that applies `dropout`."""

    def forward(self, x):
        return dropout(x, self.p, self.training)
