#!/usr/bin/env bash
# What this project does on your GPU, in under 8 minutes: run it, paste what it prints into an issue.
# It needs requirements.txt and tests/requirements.txt, and PyTorch for CUDA.
cd "$(dirname "$0")/.."
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
git log -1 --format="commit %h"
timeout 150 python -m pytest -q -n 4 tests/test_gpu.py | tail -5
timeout 270 python -m benchmarks --only gpu --device cuda --folder bench_gpu
if [ "$(nvidia-smi -L | wc -l)" -gt 1 ]; then
    timeout 60 torchrun --standalone --nproc_per_node=2 train.py --train_list bench_gpu/2007_train.txt \
        --val_list= --backbone_weights= --epochs 4 --batch_size 16 --save_dir bench_gpu/logs | tail -6
fi
