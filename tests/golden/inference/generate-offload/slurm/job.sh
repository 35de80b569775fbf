#!/bin/bash
# Run generate-offload-c21f5c: hosts 1, slots 8 each, workload generate, DeepSpeed zero3-offload.
# It stands alone: `sbatch job.sh` starts it without the launcher.
#SBATCH --job-name=generate-offload-c21f5c
#SBATCH --partition=gpu
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=112
#SBATCH --time=1-00:00:00
#SBATCH --signal=USR2@120
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
set -uo pipefail
run=/shared/runs/generate-offload-c21f5c
attempt="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"
mkdir -p "$run/logs" || exit 73
exec >>"$run/logs/job.log" 2>&1
echo "job $SLURM_JOB_ID, attempt ${SLURM_RESTART_COUNT:-0}, on $SLURM_JOB_NODELIST, $(date -Is)"

# The hosts, private to this attempt. Computed here: inside a container there is no scontrol.
scontrol show hostnames "$SLURM_JOB_NODELIST" | sed 's/$/ slots=8/' >"$run/hostfile-$attempt" || exit 73
printf '%s\n' '{
 "train_batch_size": 512,
 "train_micro_batch_size_per_gpu": 64,
 "gradient_accumulation_steps": 1,
 "gradient_clipping": 1.0,
 "steps_per_print": 1000000000,
 "bf16": {
  "enabled": true
 },
 "zero_optimization": {
  "stage": 3,
  "overlap_comm": true,
  "contiguous_gradients": true,
  "reduce_bucket_size": 100000000,
  "stage3_prefetch_bucket_size": 50000000,
  "stage3_param_persistence_threshold": 100000,
  "stage3_max_live_parameters": 1000000000,
  "stage3_max_reuse_distance": 1000000000,
  "sub_group_size": 100000000,
  "offload_optimizer": {
   "device": "cpu",
   "pin_memory": true
  },
  "offload_param": {
   "device": "cpu",
   "pin_memory": true
  }
 }
}' >"$run/ds_config.json" || exit 73

export NCCL_DEBUG=WARN  # errors of NCCL come with their reason; otherwise only their number is shown
export NCCL_NET=IB  # stop when this network cannot be used, instead of going on over TCP
export TORCH_EXTENSIONS_DIR=/tmp/generate-offload-c21f5c/torch  # this run's own compile cache, on the host's own disk
export TRITON_CACHE_DIR=/tmp/generate-offload-c21f5c/triton  # this run's own compile cache, on the host's own disk
export TORCHINDUCTOR_CACHE_DIR=/tmp/generate-offload-c21f5c/inductor  # this run's own compile cache, on the host's own disk
export RUN_DIR="$run" DEEPSPEED_CONFIG="$run/ds_config.json"

trap : TERM USR2  # the ranks act on signals; this script only waits for them
# One task a host; the node entry starts the ranks. The hosts end together when one fails.
srun --nodes=1 --ntasks-per-node=1 --kill-on-bad-exit=1 --unbuffered --cpus-per-task=112 \
  --output="$run/logs/node-%n.log" --open-mode=append \
  '--container-image=registry.example.com#deepspeed-train:0123456789ab' \
    --container-mounts=/shared/runs:/shared/runs,/tmp:/tmp,/lustre/data:/data:ro \
    --no-container-mount-home \
    --container-env=NCCL_DEBUG,NCCL_NET,TORCH_EXTENSIONS_DIR,TRITON_CACHE_DIR,TORCHINDUCTOR_CACHE_DIR,RUN_DIR,DEEPSPEED_CONFIG,SLURM_NODEID /opt/venv/bin/python /opt/job/node.py \
  --hostfile "$run/hostfile-$attempt" --run generate-offload-c21f5c --folder "$run" --attempt "$attempt" --echo 0 -- \
  -m workloads.generate \
    --deepspeed-config=/shared/runs/generate-offload-c21f5c/ds_config.json \
    --run-dir=/shared/runs/generate-offload-c21f5c \
    --model=/data/models/llama-3-70b \
    --prompts=/data/prompts.jsonl \
    --engine=zero \
    --max-new-tokens=512 \
    --part-size=2048
code=$?

# srun reports the last task to end, often 143; the node entries wrote down the first rank to fail.
if [ -s "$run/outcome-$attempt" ]; then read -r code rank host _ <"$run/outcome-$attempt"; echo "rank $rank on $host ended with $code"; fi
if [ "$code" -eq 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ]; then
  echo "saved; put back into the queue, to go on from the last checkpoint"
  scontrol requeue "$SLURM_JOB_ID" && sleep 300
fi
echo "$code" >"$run/exit_code"
exit "$code"
