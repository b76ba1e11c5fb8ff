#!/usr/bin/env bash
# Make the bundled model from nothing: data, vocabulary, untrained weights, stage 1, stage 2, half precision, score.
set -euo pipefail
cd "$(dirname "$0")/../../../.."
tiny=paddlemix/examples/llava/tiny
work=work_dirs/tiny
python=${PYTHON:-python}
started=$SECONDS
step() { printf '\n== %s (%d min)\n' "$1" $(((SECONDS - started) / 60)); }
# Two processes of one thread each train 1.5 times as fast as one process of two threads.
train() {
    PADDLEMIX_NUM_THREADS=1 "$python" -m paddle.distributed.launch --nproc_per_node 2 --log_dir "$work/log" \
        "paddlemix/examples/llava/$1" "$2" --device cpu
}

mkdir -p "$work"
step "data";             "$python" -m paddlemix.examples.llava.tiny.make_data --output "$work/data" --num-train "${NUM_TRAIN:-40000}"
step "vocabulary";       "$python" -m paddlemix.examples.llava.tiny.make_tokenizer --output "$work/tokenizer"
step "untrained model";  "$python" -m paddlemix.examples.llava.tiny.make_model --tokenizer "$work/tokenizer" --output "$work/untrained"
step "stage 1";          train pretrain.py "$tiny/pretrain.json"
step "stage 2";          train supervised_finetune.py "$tiny/finetune.json"
step "half precision";   "$python" -m paddlemix.examples.llava.tiny.store_half --model-path "$work/finetuned" --output "$tiny/model"
step "held-out score";   "$python" -m paddlemix.examples.llava.tiny.evaluate --model-path "$tiny/model" --data "$work/data" --output "$work/answers.jsonl"
step "done"
