#!/usr/bin/env bash
# All work that needs an NVIDIA GPU, in less than ten minutes: tests, compute-sanitizer where it is installed, benchmark.
# Writes bench/results/<gpu>.json and prints the table.
set -euo pipefail
cd "$(dirname "$0")/.."

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
python -m pytest -q -m gpu
status=0
if command -v compute-sanitizer > /dev/null; then
  timeout 240 bash bench/sanitize.sh || status=$? # what it found is no reason not to measure
else
  echo "compute-sanitizer is not installed: not run"
fi
python bench/bench_gpu.py --tune
exit $status
