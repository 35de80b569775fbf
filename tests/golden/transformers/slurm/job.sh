#!/bin/bash
# Run transformers-2734c5: hosts 1, slots 8 each, workload finetune, DeepSpeed zero2.
# Written by `python -m launcher`, which overwrites it. It stands alone: `sbatch job.sh` starts it without the launcher.
#SBATCH --job-name=transformers-2734c5
#SBATCH --partition=gpu
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=112
#SBATCH --time=12:00:00
#SBATCH --signal=USR2@120
#SBATCH --open-mode=append
#SBATCH --export=HOME,USER,LOGNAME,SHELL,PATH,LANG,LC_ALL,TZ,http_proxy,https_proxy,no_proxy,HTTP_PROXY,HTTPS_PROXY,NO_PROXY
#SBATCH --requeue
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
# Of the shell that submits, only what --export names travels (slurm.export in the cluster file), and SLURM_*.
set -uo pipefail
run=/shared/runs/transformers-2734c5
job="${1:-$SLURM_JOB_ID}"  # of an array's last element SLURM_JOB_ID means all of them
restarts="${SLURM_RESTART_COUNT:-0}"
attempt="$SLURM_JOB_ID-$restarts"
mkdir -p "$run/logs" || exit 73
exec >>"$run/logs/job.log" 2>&1
# For `launcher report`: the end as Slurm counts it. The node entries end before that, or with their host.
ends() {  # UNIX-TIME ATTEMPT
  [ -s "$run/events.jsonl" ] || return 0
  [ -z "$(tail -c 1 "$run/events.jsonl")" ] || echo >>"$run/events.jsonl"  # a line that was cut off
  printf '{"event": "ended", "time": %s, "attempt": "%s", "by": "slurm"}\n' "$1" "$2" >>"$run/events.jsonl"
}
# Slurm may have started the job elsewhere by now: then this host was cut off, and all that is left to do is to leave.
elsewhere() { [ -e "$run/hostfile-$SLURM_JOB_ID-$((restarts + 1))" ]; }
finish() {
  if ! elsewhere; then
    echo "$1" >"$run/exit_code"
    ends "$(date +%s.%3N)" "$attempt"
  fi
  exit "$1"
}
rm -f "$run/exit_code" || finish 73
# `launcher cancel` may have come before this line. What it said of an earlier job of this folder is over.
cancelled=""
if [ -s "$run/cancelled" ]; then read -r cancelled <"$run/cancelled"; fi
if [ "$cancelled" = "$job" ]; then
  scancel "$job"
  finish 71
fi
rm -f "$run/cancelled" || finish 73
printf -v now '%(%s)T' -1
printf 'job %s, attempt %s, on %s, %(%FT%T%z)T\n' "$SLURM_JOB_ID" "$restarts" "$SLURM_JOB_NODELIST" "$now"

# For --exclude-bad: `host expires reason`, a line each, for a day. Remove a line to forgive a host.
bad() {  # in no subshell: there the trap below does not hold, and Slurm's SIGTERM would end it
  local until
  local -x TZ=UTC0
  printf -v until '%(%FT%T+00:00)T' $((now + 86400))
  echo "$1 $until $2, run transformers-2734c5, attempt $attempt" >>/shared/runs/bad-hosts.txt
}
before="$run/hostfile-$SLURM_JOB_ID-$((restarts - 1))"
if [ "$restarts" -gt 0 ] && [ -s "$before" ]; then
  over=$(SLURM_TIME_FORMAT=%s timeout 10 sacct -n -X -P -D -j "$job" -o End 2>/dev/null | grep -x '[0-9]*' | sort -n | tail -n 1)
  [ -z "$over" ] || ends "$over" "$SLURM_JOB_ID-$((restarts - 1))"
  names="" down=" "
  while read -r host _; do names+="${names:+,}$host"; done <"$before"
  for host in $(sinfo -h -N -n "$names" -t down,fail,no_respond -o %N 2>/dev/null); do
    if [[ $down != *" $host "* ]]; then down+="$host "; bad "$host" "went down"; fi
  done
fi
if [ "$restarts" -gt 10 ]; then
  echo "75 -1 $HOSTNAME $now" >"$run/outcome-$attempt"
  echo "restarted 10 times, the limit of the job; \`launcher resume transformers-2734c5\` resumes from the last checkpoint"
  finish 75
fi

# The hosts, private to this attempt. Computed here: inside a container there is no scontrol.
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST") || finish 71
for host in $hosts; do echo "$host slots=8"; done >"$run/hostfile-$attempt" || finish 73
printf '%s\n' '{
 "train_batch_size": 256,
 "train_micro_batch_size_per_gpu": 16,
 "gradient_accumulation_steps": 2,
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
}' >"$run/ds_config.json" || finish 73
# What the ranks get beside this script's own environment: the node entry reads it (docker/environment.py). Nothing of
# it is exported here, so no name and no value changes what this script does.
(umask 077 && printf '%s\n' '{
 "NCCL_DEBUG": {"value": "WARN", "why": "errors of NCCL come with their reason; otherwise only their number is shown"},
 "NCCL_NET": {"value": "IB", "why": "stop when this network cannot be used, instead of going on over TCP"},
 "RUN_DIR": {"value": "/shared/runs/transformers-2734c5", "why": "where checkpoints and logs go"},
 "DEEPSPEED_CONFIG": {"value": "/shared/runs/transformers-2734c5/ds_config.json"}
}' >"$run/environment.json") || finish 73
export USER="${USER:-$(id -un)}"  # charliecloud needs it, and a job may start without

trap : TERM USR2  # the ranks act on signals; this script only waits for them
answering() {  # HOST…: those that answer, a line each; a site's TaskProlog may print lines of its own there
  local list one
  list=$(IFS=,; echo "$*")
  while read -r one; do
    if [[ " $* " == *" $one "* ]]; then echo "$one"; fi
  done < <(timeout --kill-after=5 20 srun --overlap --nodelist="$list" --nodes="$#" --ntasks="$#" --ntasks-per-node=1 \
    --kill-on-bad-exit=0 --input=none printenv SLURMD_NODENAME)
}
# One task a host; the node entry starts the ranks. The hosts end together when one fails.
srun --export=ALL --nodes=1 --ntasks-per-node=1 --kill-on-bad-exit=1 --unbuffered --cpus-per-task=112 \
  --output="${run//%/%%}/logs/node-%n.log" --open-mode=append \
  '--container-image=registry.example.com#deepspeed-train:0123456789ab-cuda' \
    --container-mounts=/shared/runs:/shared/runs,/tmp:/tmp,/lustre/data:/data:ro \
    --no-container-mount-home /opt/venv/bin/python /opt/job/node.py \
  --hostfile "$run/hostfile-$attempt" --run transformers-2734c5 --folder "$run" --attempt "$attempt" --echo 0 \
  --environment "$run/environment.json" \
  --scratch=/tmp \
  --caches=TORCH_EXTENSIONS_DIR,TRITON_CACHE_DIR,TORCHINDUCTOR_CACHE_DIR \
  '--caches-for=registry.example.com/deepspeed-train:0123456789ab-cuda, h100-80gb' \
  --fetch=google-t5/t5-large -- \
  -m workloads.finetune \
    --deepspeed-config=/shared/runs/transformers-2734c5/ds_config.json \
    --run-dir=/shared/runs/transformers-2734c5 \
    --model=google-t5/t5-large \
    --checkpoint-every=500 \
    --checkpoint-keep=2 \
    --data /data/translation.jsonl \
    --task=seq2seq \
    --seq-length=512 \
    --lr=1.0e-4 \
    --warmup-steps=200 \
    --max-steps=5000 \
    --eval-every=500 \
    --export
code=$?

# srun reports the last task to end, often 143; the node entries wrote down the first rank to fail.
host=""
# The first host's node entry hears how all others ended and writes it down. Without its word no run has succeeded, even
# when nothing here failed.
said=""
if [ -s "$run/outcome-$attempt" ]; then read -r said rank host _ <"$run/outcome-$attempt"; fi
case $said in
  0) ;;
  [1-9]*) code=$said; echo "rank $rank on $host ended with $code" ;;
  *) if [ "$code" -eq 0 ]; then code=71; echo "no node entry wrote down how the run ended"; fi ;;
esac
lost() {  # A host that is cut off says so of another, and may say it first: those that answer Slurm now are none.
  local one all answered
  mapfile -t all <<<"$hosts"
  answered=$(answering "${all[@]}")
  answered=" ${answered//$'\n'/ } "
  if [[ $answered != *[![:space:]]* ]]; then return; fi  # this host is cut off itself; Slurm's word counts at the next start
  for one in "${all[@]}"; do
    if [[ $answered != *" $one "* ]]; then bad "$one" "was lost"; host=""; fi
  done
  [ -z "$host" ] || bad "$host" "was lost"
}
case $code in
  70) lost ;;
  76 | 72 | 78) [ ! -s "$run/unfit-$attempt" ] || while read -r host reason; do bad "$host" "$reason"; done <"$run/unfit-$attempt" ;;
esac
# Saved on a signal; a host was lost, which Slurm may notice later than we do and keeps the job until then; or the first
# host's node entry has found that a restart may help (docker/restarts.py).
if { [ "$code" -eq 75 ] || [ "$code" -eq 70 ] || [ -e "$run/again-$attempt" ]; } && [ "$restarts" -lt 10 ] && ! elsewhere; then
  # Ranks save on scancel too, and Slurm would put back even a job that was cancelled. The file is `launcher cancel`'s.
  # --json has no such state before Slurm 23.11, and there is none without the plugin; accounting knows it at once.
  state=$(scontrol show job "$job" --json 2>/dev/null; timeout 10 sacct -n -X -P -j "$job" -o State 2>/dev/null)
  if [ -e "$run/cancelled" ] || [[ $state =~ \"job_state\":[[:space:]]*\[[[:space:]]*\"CANCELLED\"|(^|$'\n')CANCELLED ]]; then
    echo "cancelled; \`launcher resume transformers-2734c5\` resumes from the last checkpoint"
    finish "$code"
  fi
  # A job that puts itself back while it is preempted is taken for preempted again when it ends (24.11).
  if [[ $(scontrol show job "$job") == *PreemptTime=[0-9]* ]]; then
    echo "preempted: Slurm requeues or cancels it; \`launcher resume transformers-2734c5\` resumes it once it has ended"
    finish "$code"
  fi
  echo "requeued, to resume from the last checkpoint"
  trap 'exit "$code"' TERM  # so Slurm ends this script when it has put the job back
  ends "$(date +%s.%3N)" "$attempt"
  if scontrol requeue "$job"; then sleep 300 & wait "$!"; fi
  echo "Slurm did not requeue it; \`launcher resume transformers-2734c5\` resumes from the last checkpoint"
fi
finish "$code"
