# What paddlemix sets for an Ascend before paddle is imported, for programs of your own: `source env_npu.sh`.
# The scripts and the command `paddlemix` do not need it. What is set already stays.
export FLAGS_npu_storage_format="${FLAGS_npu_storage_format-0}"
export FLAGS_use_stride_kernel="${FLAGS_use_stride_kernel-0}"
export FLAGS_npu_jit_compile="${FLAGS_npu_jit_compile-0}"
export FLAGS_npu_scale_aclnn="${FLAGS_npu_scale_aclnn-True}"
export FLAGS_npu_split_aclnn="${FLAGS_npu_split_aclnn-True}"
export FLAGS_allocator_strategy="${FLAGS_allocator_strategy-auto_growth}"
export CUSTOM_DEVICE_BLACK_LIST="${CUSTOM_DEVICE_BLACK_LIST-set_value,set_value_with_tensor}"
# For `python -m paddle.distributed.launch --npus ...` of paddlepaddle 3.0, which detects only CUDA cards by itself.
export PADDLE_XCCL_BACKEND="${PADDLE_XCCL_BACKEND-npu}"
