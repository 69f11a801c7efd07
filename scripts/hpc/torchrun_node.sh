#!/usr/bin/env bash
# Train on several machines with torchrun: start this on each of them; docs/hpc.md shows it.
#
#     scripts/hpc/torchrun_node.sh HEAD:PORT OUTPUT_DIR --train_data_file scan.npz --test_data_file scan.npz [FLAGS OF train.py]
#
# HEAD is one of the machines, PORT a free port there. OUTPUT_DIR and the data lie on a disk that all of them see.
# NODES (2) is how many machines there are, RANKS (1) how many processes, one per GPU, run on each.
set -euo pipefail

head=$1
output=$2
shift 2

exec torchrun --nnodes "${NODES:-2}" --nproc-per-node "${RANKS:-1}" \
    --rdzv-backend c10d --rdzv-endpoint "$head" --rdzv-id "${output//\//_}" \
    scripts/training/train.py --output_dir "$output" \
    --num_nodes "${NODES:-2}" --devices "${RANKS:-1}" --strategy ddp "$@"
