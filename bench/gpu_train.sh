#!/usr/bin/env bash
# One piece of a training on a lent GPU, at most ten minutes a command; docs/training.md says which commands to give.
#
#   bash bench/gpu_train.sh NAME MINUTES [FURTHER OPTIONS OF fastsr train]
#
# NAME is btsrn_x3, btsrn_x2, btsrn_x4, crnet_a or crnet_b; MINUTES are the whole training's, over all pieces. Each piece
# goes on from the checkpoint of the last: in build/train while the machine is kept, else in carry/checkpoints, where the
# last command's files were put. LIMIT is the command's own limit in seconds. What comes back lies in $OUT: checkpoint
# parts, model files once the end is reached, log, plot.
set -euo pipefail
SECONDS=0
cd "$(dirname "$0")/.."
name=$1 minutes=$2
shift 2
out=${OUT:?set OUT to the folder for results}
limit=${LIMIT:-590}
work=build/train
mkdir -p "$work" "$out"

. bench/build.sh
if [ -d carry/checkpoints ]; then "$python" bench/pack_training.py join carry/checkpoints "$work"; fi

# What comes back also comes back from a training that fails: its last checkpoint is good.
bring_back() {
  if [ -f "$work/${name}_0.pt" ]; then "$python" bench/pack_training.py checkpoint "$work/${name}_0.pt" "$out"; fi
  for file in "$work/$name"_0.jsonl "$work/$name"_0.png "$work/$name"*.safetensors; do
    # Files above 16 MiB cannot come back: `fastsr train --resume` writes them at home from the checkpoint.
    if [ -f "$file" ] && [ "$(stat -c %s "$file")" -lt 16000000 ]; then cp "$file" "$out/"; fi
  done
}
trap bring_back EXIT

options=(--data carry/data/train --val carry/data/val --work "$work" --minutes "$minutes" --resume "$@")
case $name in
  btsrn_x?)
    family=btsrn
    options+=(--scale "${name#btsrn_x}" --out "$work/$name.safetensors")
    if [ "$name" != btsrn_x3 ] && [ -f "$work/btsrn_x3_0.pt" ]; then options+=(--start "$work/btsrn_x3_0.pt"); fi
    ;;
  crnet_a | crnet_b)
    family=$name
    options+=(--out "$work")
    ;;
  *)
    echo "gpu_train.sh: $name is none of btsrn_x3, btsrn_x2, btsrn_x4, crnet_a, crnet_b" >&2
    exit 2
    ;;
esac
left=$((limit - SECONDS - 40)) # for the last look, the checkpoint and the way back
"$python" -m fastsr train "$family" "${options[@]}" --stop-after "$("$python" -c "print($left / 60)")" 2>&1 | tee "$out/log.txt"
