"""Settings of LLaVA, transformers, xtuner, ms-swift and Cerebras are answered with ours by name."""

from __future__ import annotations

import re

import pytest

from paddlemix.cli import command_parser
from paddlemix.train import arguments
from paddlemix.train.arguments import parse
from paddlemix.train.config_file import read_values
from paddlemix.train.foreign_settings import FOREIGN, answer, check_foreign
from paddlemix.train.settings import DataSettings


def known() -> set[str]:
    return set().union(*(arguments._field_types(cls) for cls in arguments.SETTINGS)) | arguments.WITHOUT_EFFECT


ANSWERS = [
    ("--data_path /path/to/cc3m_595k.json", "'data_path' is a setting of LLaVA: use dataset: /path/to/cc3m_595k.json"),
    ("--model_max_length 2048", "use max_length: 2048"),
    ("--lora_enable True", "use lora: true"),
    ("--lora_enable False", "leave it out"),
    ("--lora_r 128", "use lora_rank: 128"),
    ("--bits 4", "use load_in_4bit: true (with lora: true)"),
    ("--bits 8", "use load_in_8bit: true"),
    ("--bits 16", "leave it out"),
    ("--quant_type nf4", "leave it out (4-bit weights are always NF4)"),
    ("--quant_type fp4", "fp4 is not supported"),
    ("--deepspeed ./scripts/zero2.json", 'use sharding: "stage2"'),
    ("--deepspeed ./scripts/zero3_offload.json", 'use sharding: "stage3 offload"'),
    ("--deepspeed deepspeed_zero2", 'use sharding: "stage2"'),
    ("--deepspeed default-zero3", 'use sharding: "stage3"'),
    ("--deepspeed ds_config.json", "zero_optimization.stage"),
    ("--gradient_checkpointing True", "'gradient_checkpointing' is a setting of transformers: use recompute: true"),
    ("--gradient_checkpointing False", "leave it out"),
    ("--image_aspect_ratio pad", "`paddlemix compose --image-aspect-ratio pad ...`"),
    ("--vision_tower openai/clip-vit-large-patch14", "`paddlemix compose --vision-tower openai/clip-vit-large-patch14"),
    ("--pretrain_mm_mlp_adapter a.bin", "`paddlemix compose --projector a.bin"),
    ("--mm_vision_select_layer -2", "`paddlemix compose --mm-vision-select-layer -2"),
    ("--mm_use_im_patch_token True", "images need no token in the vocabulary here"),
    ("--mm_use_im_patch_token False", "leave it out"),
    ("--freeze_backbone True", "use tune_mm_mlp_adapter: true"),
    ("--fsdp full_shard auto_wrap", 'use sharding: "stage3"'),
    ("--fsdp shard_grad_op", 'use sharding: "stage2"'),
    ("--tf32 True", "NVIDIA_TF32_OVERRIDE"),
    ("--lazy_preprocess True", "leave it out"),
    ("--double_quant True", "leave it out"),
    ("--eval_strategy no", "use evaluation_strategy: no"),
    ("--work-dir out", "'work_dir' is a setting of xtuner: use output_dir: out"),
    ("--cfg-options optim_wrapper.optimizer.lr=1e-3", "optim_wrapper.optimizer.lr: use learning_rate: 1e-3"),
    ("--llm internlm/internlm-chat-7b", "`paddlemix compose --language-model internlm/internlm-chat-7b"),
    ("--visual_encoder_lora true", "lora_target_modules"),
    ("--model_type llava1_5-7b-instruct", "'model_type' is a setting of ms-swift: use model_name_or_path"),
    ("--sft_type lora", "use lora: true"),
    ("--template vicuna", "use conv_mode: vicuna_v1, or leave it out"),
    ("--template qwen_2", "use conv_mode: qwen_2,"),
    ("--target_modules all-linear", "leave it out"),
    ("--sft_type full", "leave it out"),
    ("--checkpoint_path a.mdl", "'checkpoint_path' is a setting of Cerebras: use model_name_or_path: a.mdl"),
    ("--mode eval", "do_eval: true"),
]


@pytest.mark.parametrize(("words", "expected"), ANSWERS, ids=[words for words, _ in ANSWERS])
def test_setting_of_another_project_is_answered_with_ours_and_its_value(words, expected):
    option, *values = words.split(" ")
    values = read_values([option, *values])
    with pytest.raises(ValueError, match=re.escape(expected)):
        parse({"output_dir": "out", **values})


def test_all_foreign_settings_of_a_command_are_answered_at_once_beside_a_mistyped_one():
    values = read_values("--data_path a.json --tf32 True --learing_rate 1e-3 --bf16 True --output_dir out".split())
    with pytest.raises(ValueError) as caught:
        parse(values)
    title, *parts = str(caught.value).split("\n  ")
    assert title == "3 settings are unknown here:"
    assert parts[0].startswith("'data_path' is") and parts[1].startswith("'tf32' is")
    assert "unknown setting 'learing_rate': did you mean 'learning_rate'?" in str(caught.value)
    assert "bf16 is" not in str(caught.value)


# The flags of LLaVA 1.5's finetune_lora.sh, and of ms-swift's `swift sft` in its versions 1 and 3.
COMMANDS = {
    "LLaVA 1.5": """lora_enable lora_r lora_alpha mm_projector_lr deepspeed model_name_or_path version data_path
        image_folder vision_tower mm_projector_type mm_vision_select_layer mm_use_im_start_end mm_use_im_patch_token
        image_aspect_ratio group_by_modality_length bf16 output_dir num_train_epochs per_device_train_batch_size
        per_device_eval_batch_size gradient_accumulation_steps evaluation_strategy save_strategy save_steps
        save_total_limit learning_rate weight_decay warmup_ratio lr_scheduler_type logging_steps tf32 model_max_length
        gradient_checkpointing dataloader_num_workers lazy_preprocess report_to""",
    "ms-swift 1": """model_type sft_type dataset val_dataset train_dataset_sample num_train_epochs max_length batch_size
        check_dataset_strategy lora_rank lora_alpha lora_dropout_p lora_target_modules gradient_checkpointing
        weight_decay learning_rate gradient_accumulation_steps max_grad_norm warmup_ratio eval_steps save_steps
        save_total_limit logging_steps use_flash_attn quantization_bit template_type model_id_or_path deepspeed""",
    "ms-swift 3": """model train_type dataset torch_dtype num_train_epochs per_device_train_batch_size learning_rate
        lora_rank lora_alpha target_modules freeze_vit gradient_accumulation_steps eval_steps save_steps
        save_total_limit logging_steps max_length output_dir system warmup_ratio dataloader_num_workers
        dataset_num_proc model_author model_name deepspeed split_dataset_ratio""",
}


@pytest.mark.parametrize("flags", COMMANDS.values(), ids=COMMANDS)
def test_every_flag_of_a_command_is_ours_or_answered(flags):
    assert set(flags.split()) - known() - FOREIGN.keys() == set()


def test_no_name_in_the_table_is_a_setting_of_this_project():
    assert FOREIGN.keys() & known() == set()


def test_every_answer_names_settings_commands_or_variables_that_exist():
    names, options = known(), set()
    for key in FOREIGN:
        for value in ("True", "False", "4", "lora", "float16", "auto", "train"):
            text = answer(key, value)
            named = re.match(r"use (\w+)(?: and (\w+))?(?=[:, ]|$)", text)
            if named and named[1] != "the":
                assert {name for name in named.groups() if name} <= names, text
            options |= set(re.findall(r"`paddlemix compose (--[\w-]+)", text))
    actions = {word for action in command_parser("compose")._actions for word in action.option_strings}
    assert options and options <= actions


def test_commands_without_paddle_answer_them_too():
    with pytest.raises(ValueError, match=r"use dataset: a\.json"):
        DataSettings.read({"data_path": "a.json", "model_name_or_path": "m"})
    check_foreign({"dataset": "a.json"})
