#!/usr/bin/env bash
# Train on several machines with torchrun. Start this script on each of them; see docs/how-to/several-gpus.md.
#
#     scripts/hpc/torchrun_node.sh HEAD:PORT OUTPUT_DIR --train_data_file scan.npz --test_data_file scan.npz [FLAGS OF train.py]
#
# HEAD is one of the machines, PORT a free port on it. OUTPUT_DIR and the data must be on a shared disk.
# NODES (2) is the number of machines, RANKS (1) the number of processes on each, one per GPU.
set -euo pipefail

head=$1
output=$2
shift 2

exec torchrun --nnodes "${NODES:-2}" --nproc-per-node "${RANKS:-1}" \
    --rdzv-backend c10d --rdzv-endpoint "$head" --rdzv-id "${output//\//_}" \
    scripts/training/train.py --output_dir "$output" \
    --num_nodes "${NODES:-2}" --devices "${RANKS:-1}" --strategy ddp "$@"
