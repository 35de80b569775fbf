#!/bin/bash
# Run smoke-eval-e06b04: hosts 1, slots 2 each, on this machine, workload evaluate, DeepSpeed zero2.
# It stands alone: `bash job.sh` starts it without the launcher.
set -uo pipefail

run=/shared/runs/smoke-eval-e06b04
mkdir -p "$run/logs" || exit 73
exec >>"$run/logs/job.log" 2>&1
rm -f "$run/outcome-0" "$run/exit_code"
printf '%s' '127.0.0.1 slots=2
' >"$run/hostfile" || exit 73
printf '%s\n' '{
 "train_batch_size": 2,
 "train_micro_batch_size_per_gpu": 1,
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
}' >"$run/ds_config.json" || exit 73

export GLOO_SOCKET_IFNAME=lo  # the interface that the cluster file names
export TORCH_EXTENSIONS_DIR=/tmp/smoke-eval-e06b04/torch  # this run's own compile cache, on the host's own disk
export TRITON_CACHE_DIR=/tmp/smoke-eval-e06b04/triton  # this run's own compile cache, on the host's own disk
export TORCHINDUCTOR_CACHE_DIR=/tmp/smoke-eval-e06b04/inductor  # this run's own compile cache, on the host's own disk
export RUN_DIR="$run" DEEPSPEED_CONFIG="$run/ds_config.json"

# One node entry a host of the plan; on this machine they are the addresses 127.0.0.1, 127.0.0.2, …
entries=()
for node in $(seq 0 0); do
  /opt/venv/bin/python /opt/launcher/docker/node.py \
    --hostfile "$run/hostfile" --node "$node" --run smoke-eval-e06b04 --folder "$run" --echo 0 -- \
    -m workloads.evaluate \
      --run-dir=/shared/runs/smoke-eval-e06b04 \
      --model=byte-gpt \
      --tasks python_lines \
      --limit=16 \
      --random-weights &
  entries+=("$!")
done
trap 'signalled=1; kill -TERM "${entries[@]}" 2>/dev/null' TERM INT
trap 'signalled=1; kill -USR2 "${entries[@]}" 2>/dev/null' USR2

# A trapped signal ends `wait` early, so wait again; 127 means that the entry was already waited for.
await() {
  local ended=127 got
  while :; do
    signalled=""
    wait "$1"; got=$?
    if [ "$got" -ne 127 ]; then ended=$got; fi
    if [ -z "$signalled" ]; then return "$ended"; fi
  done
}
code=0
for entry in "${entries[@]}"; do
  await "$entry"; ended=$?
  if [ "$code" -eq 0 ]; then code=$ended; fi
done
if [ -s "$run/outcome-0" ]; then read -r code rank host _ <"$run/outcome-0"; echo "rank $rank on $host ended with $code"; fi
echo "$code" >"$run/exit_code"
exit "$code"
