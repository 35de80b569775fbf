#!/bin/bash
# Run eval-db0344: hosts 1, slots 8 each, workload evaluate, DeepSpeed zero2.
# It stands alone: `sbatch job.sh` starts it without the launcher.
#SBATCH --job-name=eval-db0344
#SBATCH --partition=gpu
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=112
#SBATCH --time=12:00:00
#SBATCH --signal=USR2@120
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
set -uo pipefail
run=/shared/runs/eval-db0344
restarts="${SLURM_RESTART_COUNT:-0}"
attempt="$SLURM_JOB_ID-$restarts"
mkdir -p "$run/logs" || exit 73
exec >>"$run/logs/job.log" 2>&1
rm -f "$run/exit_code" "$run/cancelled"
echo "job $SLURM_JOB_ID, attempt $restarts, on $SLURM_JOB_NODELIST, $(date -Is)"
finish() { echo "$1" >"$run/exit_code"; exit "$1"; }

# For --exclude-bad: `host expires reason`, a line each, for a day. Remove a line to forgive a host.
bad() { echo "$1 $(date -Is -d '+24 hours') $2, run eval-db0344, attempt $attempt" >>/shared/runs/bad-hosts.txt; }
if [ "$restarts" -gt 0 ] && [ -s "$run/hostfile-$SLURM_JOB_ID-$((restarts - 1))" ]; then
  before=$(cut -d' ' -f1 "$run/hostfile-$SLURM_JOB_ID-$((restarts - 1))" | paste -sd,)
  for host in $(sinfo -h -N -n "$before" -t down,fail,no_respond -o %N 2>/dev/null | sort -u); do bad "$host" "went down"; done
fi
if [ "$restarts" -gt 10 ]; then
  echo "75 -1 $(uname -n) $(date +%s)" >"$run/outcome-$attempt"
  echo "started again 10 times, as the job allows; \`launcher resume eval-db0344\` goes on from the last checkpoint"
  finish 75
fi

# The hosts, private to this attempt. Computed here: inside a container there is no scontrol.
scontrol show hostnames "$SLURM_JOB_NODELIST" | sed 's/$/ slots=8/' >"$run/hostfile-$attempt" || exit 73
printf '%s\n' '{
 "train_batch_size": 8,
 "train_micro_batch_size_per_gpu": 1,
 "gradient_accumulation_steps": 1,
 "gradient_clipping": 1.0,
 "steps_per_print": 1000000000,
 "bf16": {
  "enabled": true
 },
 "zero_optimization": {
  "stage": 2,
  "overlap_comm": true,
  "contiguous_gradients": true,
  "reduce_bucket_size": 200000000,
  "allgather_bucket_size": 200000000
 }
}' >"$run/ds_config.json" || exit 73

export NCCL_DEBUG=WARN  # errors of NCCL come with their reason; otherwise only their number is shown
export NCCL_NET=IB  # stop when this network cannot be used, instead of going on over TCP
export TORCH_EXTENSIONS_DIR=/tmp/eval-db0344/torch  # this run's own compile cache, on the host's own disk
export TRITON_CACHE_DIR=/tmp/eval-db0344/triton  # this run's own compile cache, on the host's own disk
export TORCHINDUCTOR_CACHE_DIR=/tmp/eval-db0344/inductor  # this run's own compile cache, on the host's own disk
export USER="${USER:-$(id -un)}"  # charliecloud needs it, and a job may start without
export RUN_DIR="$run" DEEPSPEED_CONFIG="$run/ds_config.json"

trap : TERM USR2  # the ranks act on signals; this script only waits for them
# One task a host; the node entry starts the ranks. The hosts end together when one fails.
srun --nodes=1 --ntasks-per-node=1 --kill-on-bad-exit=1 --unbuffered --cpus-per-task=112 \
  --output="$run/logs/node-%n.log" --open-mode=append \
  '--container-image=registry.example.com#deepspeed-train:0123456789ab-cuda' \
    --container-mounts=/shared/runs:/shared/runs,/tmp:/tmp,/lustre/data:/data:ro \
    --no-container-mount-home \
    --container-env=NCCL_DEBUG,NCCL_NET,TORCH_EXTENSIONS_DIR,TRITON_CACHE_DIR,TORCHINDUCTOR_CACHE_DIR,RUN_DIR,DEEPSPEED_CONFIG,SLURM_NODEID /opt/venv/bin/python /opt/job/node.py \
  --hostfile "$run/hostfile-$attempt" --run eval-db0344 --folder "$run" --attempt "$attempt" --echo 0 -- \
  -m workloads.evaluate \
    --run-dir=/shared/runs/eval-db0344 \
    --model=/data/models/llama-7b \
    --tasks hellaswag arc_easy arc_challenge piqa winogrande \
    --batch-size=32
code=$?

# srun reports the last task to end, often 143; the node entries wrote down the first rank to fail.
host=""
if [ -s "$run/outcome-$attempt" ]; then read -r code rank host _ <"$run/outcome-$attempt"; echo "rank $rank on $host ended with $code"; fi
case $code in
  70) bad "$host" "was lost" ;;
  76) while read -r host reason; do bad "$host" "$reason"; done <"$run/unfit-$attempt" ;;
esac
# 75: saved on a signal. 70: a host was lost, which Slurm may notice later than we do; it keeps the job until then.
if { [ "$code" -eq 75 ] || [ "$code" -eq 70 ]; } && [ "$restarts" -lt 10 ]; then
  # Ranks save on scancel too, and Slurm would put back even a job that was cancelled. The file is `launcher cancel`'s.
  if [ -e "$run/cancelled" ] ||
    scontrol show job "$SLURM_JOB_ID" --json 2>/dev/null | tr -d ' \n' | grep -q '"job_state":\["CANCELLED"'; then
    echo "cancelled; \`launcher resume eval-db0344\` goes on from the last checkpoint"
    finish "$code"
  fi
  # A job that puts itself back while it is preempted is taken for preempted again when it ends (24.11).
  if scontrol show job "$SLURM_JOB_ID" | grep -q 'PreemptTime=[0-9]'; then
    echo "preempted: it is Slurm that puts it back or cancels it; then \`launcher resume eval-db0344\` goes on"
    finish "$code"
  fi
  echo "put back into the queue, to go on from the last checkpoint"
  scontrol requeue "$SLURM_JOB_ID" && sleep 300
  echo "Slurm did not put it back; \`launcher resume eval-db0344\` goes on from the last checkpoint"
fi
finish "$code"
