#!/usr/bin/env bash
# All work that needs an NVIDIA GPU, in less than ten minutes: tests, compute-sanitizer where it is installed, benchmark.
#
#   bash bench/gpu.sh
#
# Writes bench/results/<gpu>.json (also to $OUT, where that is set) and prints the table. A benchmark that ran out of time
# goes on when the script is run again: SKIP=tests and SKIP="tests sanitizer" leave the others out. LIMIT is in seconds.
set -euo pipefail
SECONDS=0
cd "$(dirname "$0")/.."
limit=${LIMIT:-580}
skip=${SKIP:-}
. bench/build.sh

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
status=0
if [[ $skip != *tests* ]]; then
  workers=$("$python" -c 'import xdist; print("-n 8")' 2> /dev/null || true) # they compile side by side
  # shellcheck disable=SC2086
  timeout $((limit / 3)) "$python" -m pytest -q -m gpu $workers || status=$? # what it found is no reason not to measure
fi
if [[ $skip == *sanitizer* ]]; then
  :
elif command -v compute-sanitizer > /dev/null; then
  timeout $((limit / 4)) bash bench/sanitize.sh || status=$?
else
  echo "compute-sanitizer is not installed: not run"
fi
trap 'if [ -n "${OUT:-}" ]; then cp bench/results/nvidia*.json "$OUT" || true; fi' EXIT
left=$((limit - SECONDS))
timeout "$left" "$python" bench/bench_gpu.py --tune --minutes "$("$python" -c "print(($left - 60) / 60)")" || status=$?
exit $status
