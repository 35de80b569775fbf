#!/bin/bash
# Run smoke-generate-zero-3d6f12: hosts 1, slots 2 each, workload generate, DeepSpeed zero3.
# It stands alone: `sbatch job.sh` starts it without the launcher.
#SBATCH --job-name=smoke-generate-zero-3d6f12
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=00:15:00
#SBATCH --signal=USR2@120
#SBATCH --open-mode=append
#SBATCH --requeue
set -uo pipefail
run=/shared/runs/smoke-generate-zero-3d6f12
attempt="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"
mkdir -p "$run/logs" || exit 73
exec >>"$run/logs/job.log" 2>&1
echo "job $SLURM_JOB_ID, attempt ${SLURM_RESTART_COUNT:-0}, on $SLURM_JOB_NODELIST, $(date -Is)"

# The hosts, private to this attempt. Computed here: inside a container there is no scontrol.
scontrol show hostnames "$SLURM_JOB_NODELIST" | sed 's/$/ slots=2/' >"$run/hostfile-$attempt" || exit 73
printf '%s\n' '{
 "train_batch_size": 4,
 "train_micro_batch_size_per_gpu": 2,
 "gradient_accumulation_steps": 1,
 "gradient_clipping": 1.0,
 "steps_per_print": 1000000000,
 "zero_optimization": {
  "stage": 3,
  "overlap_comm": true,
  "contiguous_gradients": true,
  "reduce_bucket_size": 100000000,
  "stage3_prefetch_bucket_size": 50000000,
  "stage3_param_persistence_threshold": 100000,
  "stage3_max_live_parameters": 1000000000,
  "stage3_max_reuse_distance": 1000000000
 }
}' >"$run/ds_config.json" || exit 73

export GLOO_SOCKET_IFNAME=lo  # the interface that the cluster file names
export TORCH_EXTENSIONS_DIR=/tmp/smoke-generate-zero-3d6f12/torch  # this run's own compile cache, on the host's own disk
export TRITON_CACHE_DIR=/tmp/smoke-generate-zero-3d6f12/triton  # this run's own compile cache, on the host's own disk
export TORCHINDUCTOR_CACHE_DIR=/tmp/smoke-generate-zero-3d6f12/inductor  # this run's own compile cache, on the host's own disk
export RUN_DIR="$run" DEEPSPEED_CONFIG="$run/ds_config.json"

trap : TERM USR2  # the ranks act on signals; this script only waits for them
# One task a host; the node entry starts the ranks. The hosts end together when one fails.
srun --nodes=1 --ntasks-per-node=1 --kill-on-bad-exit=1 --unbuffered \
  --output="$run/logs/node-%n.log" --open-mode=append \
  /opt/venv/bin/python /opt/launcher/docker/node.py \
  --hostfile "$run/hostfile-$attempt" --run smoke-generate-zero-3d6f12 --folder "$run" --attempt "$attempt" --echo 0 -- \
  -m workloads.generate \
    --deepspeed-config=/shared/runs/smoke-generate-zero-3d6f12/ds_config.json \
    --run-dir=/shared/runs/smoke-generate-zero-3d6f12 \
    --model=byte-gpt \
    --prompts=jobs/smoke/prompts.txt \
    --max-new-tokens=16 \
    --part-size=4 \
    --random-weights
code=$?

# srun reports the last task to end, often 143; the node entries wrote down the first rank to fail.
if [ -s "$run/outcome-$attempt" ]; then read -r code rank host _ <"$run/outcome-$attempt"; echo "rank $rank on $host ended with $code"; fi
if [ "$code" -eq 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ]; then
  echo "saved; put back into the queue, to go on from the last checkpoint"
  scontrol requeue "$SLURM_JOB_ID" && sleep 300
fi
echo "$code" >"$run/exit_code"
exit "$code"
