#!/usr/bin/env bash
# All trainings of SPAN side by side on a lent GPU, in one command of LIMIT seconds; docs/training.md says which.
#
#   LIMIT=480 bash bench/gpu_train_span.sh [FURTHER OPTIONS OF fastsr train]
#
# Six processes share the GPU: x2 has it first, x3 and x4 begin from its body, prepared by then; the three small ones take
# turns. Every half minute, at the end and when told to stop, $OUT gets span.tar (networks so far, logs, plots), slim.tar
# and slim_small.tar (checkpoints to resume from). One that fails leaves the others alone.
set -uo pipefail
SECONDS=0
cd "$(dirname "$0")/.."
out=${OUT:?set OUT to the folder for results}
limit=${LIMIT:-480}
wide=${WIDTH:-48} narrow=${WIDTH_SMALL:-28}
work=${WORK:-build/span}
more=("$@")
rm -rf "$work"
mkdir -p "$work" "$out"
for tar in carry/checkpoints/slim*.tar; do # of an earlier session: go on from there
  if [ -f "$tar" ]; then tar -xf "$tar" -C "$work" && more+=(--resume); fi
done
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} TORCHINDUCTOR_COMPILE_THREADS=4

. bench/build.sh
spare=${SPARE:-25} # for the last look at the images, the last tar and the way back
whole=$((limit - SECONDS - spare))
if command -v nvidia-smi > /dev/null; then nvidia-smi --query-gpu=name,memory.used,utilization.gpu --format=csv,noheader; fi
echo "built after $SECONDS s; $whole s to train"

collect() { "$python" bench/pack_training.py collect "$work" "$out" 2>&1 | tail -n 3; }
stop() {
  trap - TERM INT
  kill "${trainings[@]}" 2> /dev/null
  collect
  exit 143
}
trainings=()
trap stop TERM INT

minutes() { "$python" -c "print($whole * $1 / 100 / 60)"; }

# start NAME SCALE WIDTH BEGIN END [FURTHER OPTIONS]: BEGIN and END in percent of the time
start() {
  local name=$1 scale=$2 width=$3 options
  options=(--name "$name" --scale "$scale" --config "width=$width" --start-at "$(minutes "$4")" --within "$(minutes "$5")")
  shift 5
  "$python" -m fastsr train span --data carry/data/train --val carry/data/val --work "$work" \
    --out "$work/$name.safetensors" "${options[@]}" "$@" "${more[@]}" > >(tee "$work/$name.log") 2>&1 &
  trainings+=($!)
}

going() {
  for one in "${trainings[@]}"; do
    if kill -0 "$one" 2> /dev/null; then return 0; fi
  done
  return 1
}

start span_x2 2 "$wide" 0 100
start span_small_x2 2 "$narrow" 0 45
sleep "${APART:-20}" # these compile first
start span_x3 3 "$wide" 33 100 --start "$work/span_x2_0.pt"
start span_x4 4 "$wide" 33 100 --start "$work/span_x2_0.pt"
start span_small_x3 3 "$narrow" 46 73 --start "$work/span_small_x2_0.pt"
start span_small_x4 4 "$narrow" 73 99 --start "$work/span_small_x2_0.pt"

due=$((SECONDS + ${EVERY:-30}))
while going && [ "$SECONDS" -lt $((limit - 12)) ]; do
  sleep 1 &
  wait $! # a signal is heard during wait, not during sleep
  if [ "$SECONDS" -ge "$due" ]; then
    collect
    if command -v nvidia-smi > /dev/null; then
      nvidia-smi --query-gpu=memory.used,utilization.gpu --format=csv,noheader | sed "s/^/$SECONDS s: /"
    fi
    due=$((SECONDS + ${EVERY:-30}))
  fi
done
if going; then
  echo "gpu_train_span.sh: out of time"
  kill "${trainings[@]}" 2> /dev/null
fi
wait
collect
ls -l "$out"
