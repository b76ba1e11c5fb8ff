"""Generate, from paddle's headers, the C++ that adds float16 and bfloat16 kernels to the simulated device.

Each kernel widens to float32 and calls the CPU kernel; its line is SIM_HALF(operation, kernel template), see
plugin/sim_half.h. An operation is left out if this version of paddle declares no kernel template of its name, or
several.
"""

from __future__ import annotations

import re
from pathlib import Path

OPERATIONS = """
abs add add_n addmm amax amin arange_tensor argmax argmin argsort as_strided assign assign_value batch_norm bce_loss
bernoulli bicubic_interp bilinear_interp bincount bmm broadcast_tensors ceil check_finite_and_unscale clip clip_by_norm
concat conv2d conv2d_transpose conv3d cos crop cross_entropy_with_softmax cumsum depthwise_conv2d diag diagonal dist
divide dot dropout einsum elementwise_pow embedding equal equal_all erf exp expand expand_as expm1 eye fill
fill_diagonal flatten flip floor fold frobenius_norm full_like gather gather_nd gaussian_inplace gelu greater_equal
greater_than group_norm hardswish histogram huber_loss index_add index_put index_sample index_select instance_norm
isclose isfinite isinf isnan allclose kldiv_loss kron label_smooth layer_norm leaky_relu lerp less_equal less_than
linspace log log1p log_softmax logcumsumexp logit logsigmoid logsumexp masked_select matmul max maximum mean mean_all
meshgrid min minimum mish multinomial multiplex multiply nearest_interp nll_loss norm not_equal npu_identity outer
p_norm pad pad3d pixel_shuffle pool2d pow prod put_along_axis randperm reciprocal relu remainder repeat_interleave
repeat_interleave_with_tensor_index reshape reverse rms_norm roll round rsqrt scale scatter scatter_nd_add set_value
set_value_with_tensor sgd_dense sigmoid sigmoid_cross_entropy_with_logits sign silu sin slice softmax softplus split
split_with_num sqrt square squared_l2_norm squeeze stack strided_slice subtract sum swiglu swish take_along_axis tanh
tile top_p_sampling topk trace transpose tril tril_triu triu unbind unfold uniform_inplace unsqueeze unstack
update_loss_scaling variance view_dtype where
""".split()
# Kernel templates that are not called as their operation.
TEMPLATES = {
    "amax_grad": "ReduceAMaxGradKernel",
    "amin_grad": "ReduceAMinGradKernel",
    "conv2d": "ConvKernel",
    "conv2d_grad": "ConvGradKernel",
    "depthwise_conv2d": "DepthwiseConvKernel",
    "depthwise_conv2d_grad": "DepthwiseConvGradKernel",
    "dropout": "DropoutRawKernel",
    "dropout_grad": "DropoutGradRawKernel",
    "max_grad": "ReduceMaxGradKernel",
    "mean_grad": "ReduceMeanGradKernel",
    "min_grad": "ReduceMinGradKernel",
    "nll_loss": "NllLossRawKernel",
    "set_value_with_tensor": "SetTensorValueKernel",
}
HEADERS = "paddle/phi/kernels"
# Headers that declare kernels with macros, and the suffix that the macros append to the name.
MACRO_HEADERS = {
    "activation_kernel": "Kernel",
    "activation_grad_kernel": "GradKernel",
    "compare_kernel": "Kernel",
    "isfinite_kernel": "Kernel",
}
DECLARATION = re.compile(
    r"template\s*<typename T, typename Context>\s*(?:extern\s+)?(?:[A-Z_]+\s+)?void\s+(\w+Kernel)\s*\("
)


def declared_templates(include: Path) -> dict[str, list[str]]:
    """Return kernel template -> the headers that declare it, one entry per declaration."""
    found: dict[str, list[str]] = {}
    for path in sorted((include / HEADERS).glob("*.h")):
        for name in DECLARATION.findall(path.read_text(encoding="utf-8")):
            found.setdefault(name, []).append(f"{HEADERS}/{path.name}")
    for header, suffix in MACRO_HEADERS.items():
        path = include / HEADERS / f"{header}.h"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for name in re.findall(r"^DECLARE_\w+\((\w+)", text, re.MULTILINE):
            found.setdefault(name + suffix, [f"{HEADERS}/{path.name}"])
    return found


def chosen_kernels(include: Path) -> list[tuple[str, str, str]]:
    """Return (operation, kernel template, header) for each forward or gradient operation that can be widened."""
    declared = declared_templates(include)
    without_case = {name.lower(): name for name in reversed(declared)}
    chosen = []
    for operation in (name for forward in OPERATIONS for name in (forward, f"{forward}_grad")):
        plain = "".join(part.capitalize() for part in operation.split("_")) + "Kernel"
        wanted = TEMPLATES.get(operation, plain)
        template = wanted if wanted in declared else without_case.get(wanted.lower())
        if template is not None and len(declared[template]) == 1:
            chosen.append((operation, template, declared[template][0]))
    return chosen


def write_sources(include: Path, folder: Path, num_files: int) -> list[Path]:
    """Write the kernels to several C++ files, which compile in parallel; return their paths."""
    kernels, paths = chosen_kernels(include), []
    for number in range(num_files):
        mine = kernels[number::num_files]
        headers = ["sim_half.h", *sorted({header for _, _, header in mine})]
        lines = [f'#include "{header}"' for header in headers]
        lines += [f"SIM_HALF({operation}, phi::{template})" for operation, template, _ in mine]
        paths.append(folder / f"half_{number}.cc")
        paths[-1].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths
