#!/bin/bash
<<<<<<< HEAD
# Run smoke-moe-4a3965: hosts 1, slots 2 each, workload pretrain, DeepSpeed zero2.
# Written by `python -m launcher`, which overwrites it. It stands alone: `sbatch job.sh` starts it without the launcher.
#SBATCH --job-name=smoke-moe-4a3965
=======
# Run smoke-moe-33aacd: hosts 1, slots 2 each, workload pretrain, DeepSpeed zero2.
# It stands alone: `sbatch job.sh` starts it without the launcher.
#SBATCH --job-name=smoke-moe-33aacd
>>>>>>> pretrain
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=00:30:00
#SBATCH --signal=USR2@120
#SBATCH --open-mode=append
#SBATCH --requeue
set -uo pipefail
<<<<<<< HEAD
run=/shared/runs/smoke-moe-4a3965
=======
run=/shared/runs/smoke-moe-33aacd
>>>>>>> pretrain
restarts="${SLURM_RESTART_COUNT:-0}"
attempt="$SLURM_JOB_ID-$restarts"
mkdir -p "$run/logs" || exit 73
exec >>"$run/logs/job.log" 2>&1
<<<<<<< HEAD
finish() { echo "$1" >"$run/exit_code"; exit "$1"; }
rm -f "$run/exit_code" "$run/cancelled" || finish 73
printf -v now '%(%s)T' -1
printf 'job %s, attempt %s, on %s, %(%FT%T%z)T\n' "$SLURM_JOB_ID" "$restarts" "$SLURM_JOB_NODELIST" "$now"

# For --exclude-bad: `host expires reason`, a line each, for a day. Remove a line to forgive a host.
bad() {
  local until
  until=$(export TZ=UTC0; printf '%(%FT%T+00:00)T' $((now + 86400)))
  echo "$1 $until $2, run smoke-moe-4a3965, attempt $attempt" >>/shared/runs/bad-hosts.txt
}
before="$run/hostfile-$SLURM_JOB_ID-$((restarts - 1))"
if [ "$restarts" -gt 0 ] && [ -s "$before" ]; then
  names="" down=" "
  while read -r host _; do names+="${names:+,}$host"; done <"$before"
  for host in $(sinfo -h -N -n "$names" -t down,fail,no_respond -o %N 2>/dev/null); do
    if [[ $down != *" $host "* ]]; then down+="$host "; bad "$host" "went down"; fi
  done
fi
if [ "$restarts" -gt 10 ]; then
  echo "75 -1 $HOSTNAME $now" >"$run/outcome-$attempt"
  echo "started again 10 times, as the job allows; \`launcher resume smoke-moe-4a3965\` goes on from the last checkpoint"
=======
rm -f "$run/exit_code" "$run/cancelled"
echo "job $SLURM_JOB_ID, attempt $restarts, on $SLURM_JOB_NODELIST, $(date -Is)"
finish() { echo "$1" >"$run/exit_code"; exit "$1"; }

# For --exclude-bad: `host expires reason`, a line each, for a day. Remove a line to forgive a host.
bad() { echo "$1 $(date -Is -d '+24 hours') $2, run smoke-moe-33aacd, attempt $attempt" >>/shared/runs/bad-hosts.txt; }
if [ "$restarts" -gt 0 ] && [ -s "$run/hostfile-$SLURM_JOB_ID-$((restarts - 1))" ]; then
  before=$(cut -d' ' -f1 "$run/hostfile-$SLURM_JOB_ID-$((restarts - 1))" | paste -sd,)
  for host in $(sinfo -h -N -n "$before" -t down,fail,no_respond -o %N 2>/dev/null | sort -u); do bad "$host" "went down"; done
fi
if [ "$restarts" -gt 10 ]; then
  echo "75 -1 $(uname -n) $(date +%s)" >"$run/outcome-$attempt"
  echo "started again 10 times, as the job allows; \`launcher resume smoke-moe-33aacd\` goes on from the last checkpoint"
>>>>>>> pretrain
  finish 75
fi

# The hosts, private to this attempt. Computed here: inside a container there is no scontrol.
<<<<<<< HEAD
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST") || finish 71
for host in $hosts; do echo "$host slots=2"; done >"$run/hostfile-$attempt" || finish 73
=======
scontrol show hostnames "$SLURM_JOB_NODELIST" | sed 's/$/ slots=2/' >"$run/hostfile-$attempt" || exit 73
>>>>>>> pretrain
printf '%s\n' '{
 "train_batch_size": 8,
 "train_micro_batch_size_per_gpu": 4,
 "gradient_accumulation_steps": 1,
 "gradient_clipping": 1.0,
 "steps_per_print": 1000000000,
 "zero_optimization": {
  "stage": 2,
  "overlap_comm": true,
  "contiguous_gradients": true,
  "reduce_bucket_size": 200000000,
  "allgather_bucket_size": 200000000
 }
<<<<<<< HEAD
}' >"$run/ds_config.json" || finish 73
# What the ranks get beside this script's own environment: the node entry reads it (docker/environment.py). Nothing of
# it is exported here, so no name and no value changes what this script does.
(umask 077 && printf '%s\n' '{
 "GLOO_SOCKET_IFNAME": {"value": "lo", "why": "the interface that the cluster file names"},
 "RUN_DIR": {"value": "/shared/runs/smoke-moe-4a3965", "why": "where checkpoints and logs go"},
 "DEEPSPEED_CONFIG": {"value": "/shared/runs/smoke-moe-4a3965/ds_config.json"}
}' >"$run/environment.json") || finish 73
export USER="${USER:-$(id -un)}"  # charliecloud needs it, and a job may start without
=======
}' >"$run/ds_config.json" || exit 73

export GLOO_SOCKET_IFNAME=lo  # the interface that the cluster file names
export TORCH_EXTENSIONS_DIR=/tmp/smoke-moe-33aacd/torch  # this run's own compile cache, on the host's own disk
export TRITON_CACHE_DIR=/tmp/smoke-moe-33aacd/triton  # this run's own compile cache, on the host's own disk
export TORCHINDUCTOR_CACHE_DIR=/tmp/smoke-moe-33aacd/inductor  # this run's own compile cache, on the host's own disk
export USER="${USER:-$(id -un)}"  # charliecloud needs it, and a job may start without
export RUN_DIR="$run" DEEPSPEED_CONFIG="$run/ds_config.json"
>>>>>>> pretrain

trap : TERM USR2  # the ranks act on signals; this script only waits for them
# One task a host; the node entry starts the ranks. The hosts end together when one fails.
srun --nodes=1 --ntasks-per-node=1 --kill-on-bad-exit=1 --unbuffered \
  --output="$run/logs/node-%n.log" --open-mode=append \
  /opt/venv/bin/python /opt/launcher/docker/node.py \
<<<<<<< HEAD
  --hostfile "$run/hostfile-$attempt" --run smoke-moe-4a3965 --folder "$run" --attempt "$attempt" --echo 0 \
  --environment "$run/environment.json" \
  --scratch=/tmp \
  --caches=TORCH_EXTENSIONS_DIR,TRITON_CACHE_DIR,TORCHINDUCTOR_CACHE_DIR \
  '--caches-for=no image, cpu' -- \
  -m workloads.pretrain \
    --deepspeed-config=/shared/runs/smoke-moe-4a3965/ds_config.json \
    --run-dir=/shared/runs/smoke-moe-4a3965 \
=======
  --hostfile "$run/hostfile-$attempt" --run smoke-moe-33aacd --folder "$run" --attempt "$attempt" --echo 0 -- \
  -m workloads.pretrain \
    --deepspeed-config=/shared/runs/smoke-moe-33aacd/ds_config.json \
    --run-dir=/shared/runs/smoke-moe-33aacd \
>>>>>>> pretrain
    --model=tiny-mixtral \
    --checkpoint-every=500 \
    --checkpoint-keep=3 \
    --seq-length=64 \
    --lr=5.0e-3 \
    --max-steps=200
code=$?

# srun reports the last task to end, often 143; the node entries wrote down the first rank to fail.
host=""
<<<<<<< HEAD
# The first host's node entry hears how all others ended and writes it down. Without its word no run has succeeded, even
# when nothing here failed.
said=""
if [ -s "$run/outcome-$attempt" ]; then read -r said rank host _ <"$run/outcome-$attempt"; fi
case $said in
  0) ;;
  [1-9]*) code=$said; echo "rank $rank on $host ended with $code" ;;
  *) if [ "$code" -eq 0 ]; then code=71; echo "no node entry wrote down how the run ended"; fi ;;
esac
=======
if [ -s "$run/outcome-$attempt" ]; then read -r code rank host _ <"$run/outcome-$attempt"; echo "rank $rank on $host ended with $code"; fi
>>>>>>> pretrain
case $code in
  70) bad "$host" "was lost" ;;
  76) while read -r host reason; do bad "$host" "$reason"; done <"$run/unfit-$attempt" ;;
esac
<<<<<<< HEAD
# Saved on a signal, or a host was lost, which Slurm may notice later than we do; it keeps the job until then.
if { [ "$code" -eq 75 ] || [ "$code" -eq 70 ]; } && [ "$restarts" -lt 10 ]; then
  # Ranks save on scancel too, and Slurm would put back even a job that was cancelled. The file is `launcher cancel`'s.
  state=$(scontrol show job "$SLURM_JOB_ID" --json 2>/dev/null)
  if [ -e "$run/cancelled" ] || [[ $state =~ \"job_state\":[[:space:]]*\[[[:space:]]*\"CANCELLED\" ]]; then
    echo "cancelled; \`launcher resume smoke-moe-4a3965\` goes on from the last checkpoint"
    finish "$code"
  fi
  # A job that puts itself back while it is preempted is taken for preempted again when it ends (24.11).
  if [[ $(scontrol show job "$SLURM_JOB_ID") == *PreemptTime=[0-9]* ]]; then
    echo "preempted: it is Slurm that puts it back or cancels it; then \`launcher resume smoke-moe-4a3965\` goes on"
    finish "$code"
  fi
  echo "put back into the queue, to go on from the last checkpoint"
  trap 'exit "$code"' TERM  # so Slurm ends this script when it has put the job back
  if scontrol requeue "$SLURM_JOB_ID"; then sleep 300 & wait "$!"; fi
  echo "Slurm did not put it back; \`launcher resume smoke-moe-4a3965\` goes on from the last checkpoint"
=======
# 75: saved on a signal. 70: a host was lost, which Slurm may notice later than we do; it keeps the job until then.
if { [ "$code" -eq 75 ] || [ "$code" -eq 70 ]; } && [ "$restarts" -lt 10 ]; then
  # Ranks save on scancel too, and Slurm would put back even a job that was cancelled. The file is `launcher cancel`'s.
  if [ -e "$run/cancelled" ] ||
    scontrol show job "$SLURM_JOB_ID" --json 2>/dev/null | tr -d ' \n' | grep -q '"job_state":\["CANCELLED"'; then
    echo "cancelled; \`launcher resume smoke-moe-33aacd\` goes on from the last checkpoint"
    finish "$code"
  fi
  # A job that puts itself back while it is preempted is taken for preempted again when it ends (24.11).
  if scontrol show job "$SLURM_JOB_ID" | grep -q 'PreemptTime=[0-9]'; then
    echo "preempted: it is Slurm that puts it back or cancels it; then \`launcher resume smoke-moe-33aacd\` goes on"
    finish "$code"
  fi
  echo "put back into the queue, to go on from the last checkpoint"
  scontrol requeue "$SLURM_JOB_ID" && sleep 300
  echo "Slurm did not put it back; \`launcher resume smoke-moe-33aacd\` goes on from the last checkpoint"
>>>>>>> pretrain
fi
finish "$code"
