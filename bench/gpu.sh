#!/usr/bin/env bash
# All work that needs an NVIDIA GPU, in less than ten minutes.
#
#   bash bench/gpu.sh
#   LIMIT=270 PHASES="smoke ours tests compiled" bash bench/gpu.sh
#
# LIMIT is in seconds. Phases, in the order in which they are run:
#   smoke      each CUDA kernel and candidate in a process of its own; what hangs or is wrong is left out from then on
#   ours       our executors and eager torch, fp16
#   tests      pytest -m gpu, those of the CUDA kernels first, beside the next phase's compilations
#   compiled   torch.compile's peers
#   gpu, bf16, max, fp8    executor "gpu"; bf16; torch.compile's max-autotune; e4m3 products
#   sanitizer  compute-sanitizer, where it is installed
# Writes bench/results/<gpu>.json row by row, and prints the table. What has no time yet goes on when the script is run
# again. Where OUT is set, results and logs are in that folder at any moment: the json, gpu.log, faults.txt (whole error
# texts), tuning.jsonl (every candidate's time), pytest.txt, pytest.xml, sanitizer.txt.
set -uo pipefail
SECONDS=0
cd "$(dirname "$0")/.." || exit 1
limit=${LIMIT:-580}
phases=${PHASES:-smoke ours tests compiled gpu bf16 max sanitizer fp8}
work=build/gpu
if ! nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2> /dev/null; then
  echo "gpu.sh: no NVIDIA GPU: nvidia-smi is not there, or finds none" >&2
  exit 1
fi

left() { echo $((limit - SECONDS > $1 ? limit - SECONDS - $1 : 0)); }
least() { echo $(($1 < $2 ? $1 : $2)); }
wanted() { [[ " $phases " == *" $1 "* ]]; }

# limited SECONDS COMMAND: a command that is interrupted, and killed if that does not end it.
limited() {
  local seconds=$1
  shift
  if ((seconds < 5)); then
    echo "not run, no time is left: $*"
    return 0
  fi
  env --default-signal=INT timeout -s INT -k 10 "$seconds" "$@" # what is in the background ignores INT else
}

tests() {
  local workers=() files=(tests/cuda tests/kernels tests/executors tests/test_torch_ops.py tests/test_stream.py tests/test_benchmark_gpu.py)
  if "$python" -c 'import xdist' 2> /dev/null; then workers+=(-n "$(least "$(nproc)" 14)"); fi
  if "$python" -c 'import pytest_timeout' 2> /dev/null; then workers+=(--timeout 60 --timeout-method thread); fi
  FASTSR_FAULTS=$work/faults.txt limited "$1" "$python" -m pytest -m gpu -v -rfE --tb=short -p no:cacheprovider \
    --junitxml="${OUT:-$work}/pytest.xml" "${workers[@]}" "${files[@]}" > "${OUT:-$work}/pytest.txt" 2>&1
  local status=$?
  rm -f "$work/testing"
  if [ -n "${OUT:-}" ] && [ -f "$work/faults.txt" ]; then cp "$work/faults.txt" "$OUT/"; fi
  grep -E '^(FAILED|ERROR)' "${OUT:-$work}/pytest.txt" | cut -c1-160 | sort -u | head -n 25
  tail -n 1 "${OUT:-$work}/pytest.txt"
  return $status
}

all() {
  local status=0 later phase testing=
  # Reading the libraries from a cold disk and building go side by side.
  "${PYTHON:-python3}" -c 'import torch, triton, cupy; torch.zeros(1).cuda() @ torch.zeros(1).cuda()' > /dev/null 2>&1 &
  . bench/build.sh || return 1
  mkdir -p "$work"
  cp -n "$work"/nvidia*.json bench/results/ 2> /dev/null # the last run's, where the tree came anew
  rm -f "$work/testing" # of a run that was killed
  # Each process makes its kernels anew otherwise; a folder of the tree is kept with it.
  export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$PWD/$work/triton} TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$PWD/$work/inductor}
  nvcc --version 2> /dev/null | tail -n 2
  limited "$(least 75 "$(left 5)")" "$python" bench/bench_gpu.py --phase probe || status=1
  if wanted smoke; then
    limited "$(least 60 "$(left 5)")" "$python" bench/gpu_smoke.py --seconds 40 || status=1
  fi
  FASTSR_EXCLUDE=$("$python" bench/gpu_smoke.py --excluded)
  export FASTSR_EXCLUDE
  echo "after $SECONDS s; excluded: ${FASTSR_EXCLUDE:-nothing}"
  for phase in $phases; do
    later=5
    case $phase in
      smoke) ;;
      tests) # while those compile that are timed afterwards
        touch "$work/testing"
        tests "$(least 90 "$(left 5)")" &
        testing=$!
        continue
        ;;
      sanitizer) limited "$(least 120 "$(left 5)")" "$python" bench/gpu_smoke.py --sanitizer --seconds "$(left 10)" || status=1 ;;
      *)
        if wanted tests && [ "$phase" = ours ]; then later=$((limit / 3)); fi # they get theirs
        # It stops by itself; the limit is for the case that it does not.
        limited "$(left $((later - 5)))" "$python" bench/bench_gpu.py --phase "$phase" --seconds "$(left "$later")" --while-not "$work/testing" || status=1
        ;;
    esac
    echo "$phase: done after $SECONDS s"
  done
  if [ -n "$testing" ]; then wait "$testing" || status=1; fi
  "$python" bench/bench_gpu.py --table
  return $status
}

if [ -n "${OUT:-}" ]; then
  all 2>&1 | tee -a "$OUT/gpu.log"
  exit "${PIPESTATUS[0]}"
fi
all
