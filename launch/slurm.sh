#!/usr/bin/env bash
# A Slurm job that runs Tercet on all GPUs of its nodes, and continues after it was pre-empted:
#     sbatch launch/slurm.sh --preset opt-1.3b ppo.batch_size=256
#     sbatch --nodes=2 --gpus-per-node=4 launch/slurm.sh --preset opt-350m
# Give the command in a clone of the repository with its .venv, on a file system that all nodes share.
#SBATCH --job-name=tercet
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail

# a requeued job keeps its id, so it finds the run that it has begun
out=${TERCET_OUT:-runs/$SLURM_JOB_NAME-$SLURM_JOB_ID}
first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# one torchrun per node starts one process per GPU; all of them meet at the first node
exec srun --ntasks-per-node=1 --kill-on-bad-exit=1 \
    .venv/bin/torchrun \
    --nnodes="$SLURM_JOB_NUM_NODES" \
    --nproc-per-node="${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv-id="$SLURM_JOB_ID" \
    --rdzv-backend=c10d \
    --rdzv-endpoint="$first_node:${TERCET_PORT:-29500}" \
    -m tercet lm run --out "$out" "$@"
