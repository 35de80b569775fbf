#!/bin/bash
# Run smoke-generate-dd8da5: hosts 1, slots 2 each, on this machine, workload generate, DeepSpeed zero0.
# Written by `python -m launcher`, which overwrites it. It stands alone: `bash job.sh` starts it without the launcher.
set -uo pipefail

run=/shared/runs/smoke-generate-dd8da5
attempt=0
mkdir -p "$run/logs" || exit 73
exec >>"$run/logs/job.log" 2>&1
finish() { echo "$1" >"$run/exit_code"; exit "$1"; }
rm -f "$run/outcome-$attempt" "$run/exit_code" || exit 73
printf '%s' '127.0.0.1 slots=2
' >"$run/hostfile" || finish 73
printf '%s\n' '{
 "train_batch_size": 4,
 "train_micro_batch_size_per_gpu": 2,
 "gradient_accumulation_steps": 1,
 "gradient_clipping": 1.0,
 "steps_per_print": 1000000000,
 "zero_optimization": {
  "stage": 0
 }
}' >"$run/ds_config.json" || finish 73
# What the ranks get beside this script's own environment: the node entry reads it (docker/environment.py). Nothing of
# it is exported here, so no name and no value changes what this script does.
(umask 077 && printf '%s\n' '{
 "GLOO_SOCKET_IFNAME": {"value": "lo", "why": "the interface that the cluster file names"},
 "RUN_DIR": {"value": "/shared/runs/smoke-generate-dd8da5", "why": "where checkpoints and logs go"},
 "DEEPSPEED_CONFIG": {"value": "/shared/runs/smoke-generate-dd8da5/ds_config.json"}
}' >"$run/environment.json") || finish 73

# One node entry a host of the plan; on this machine they are the addresses 127.0.0.1, 127.0.0.2, …
entries=() told=""
trap 'told=TERM' TERM INT  # until all are there to be told
trap 'told=USR2' USR2
for ((node = 0; node < 1; node++)); do
  /opt/venv/bin/python /opt/launcher/docker/node.py \
    --hostfile "$run/hostfile" --node "$node" --run smoke-generate-dd8da5 --folder "$run" --echo 0 \
    --environment "$run/environment.json" \
    --scratch=/tmp \
    --caches=TORCH_EXTENSIONS_DIR,TRITON_CACHE_DIR,TORCHINDUCTOR_CACHE_DIR \
    '--caches-for=no image, cpu' -- \
    -m workloads.generate \
      --deepspeed-config=/shared/runs/smoke-generate-dd8da5/ds_config.json \
      --run-dir=/shared/runs/smoke-generate-dd8da5 \
      --model=byte-gpt \
      --prompts=/data/prompts.txt \
      --max-new-tokens=16 \
      --part-size=2 \
      --random-weights &
  entries+=("$!")
done
trap 'signalled=1; kill -TERM "${entries[@]}" 2>/dev/null' TERM INT
trap 'signalled=1; kill -USR2 "${entries[@]}" 2>/dev/null' USR2
[ -z "$told" ] || kill "-$told" "${entries[@]}" 2>/dev/null

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

# The first host's node entry hears how all others ended and writes it down. Without its word no run has succeeded, even
# when nothing here failed.
said=""
if [ -s "$run/outcome-$attempt" ]; then read -r said rank host _ <"$run/outcome-$attempt"; fi
case $said in
  0) ;;
  [1-9]*) code=$said; echo "rank $rank on $host ended with $code" ;;
  *) if [ "$code" -eq 0 ]; then code=71; echo "no node entry wrote down how the run ended"; fi ;;
esac
finish "$code"
