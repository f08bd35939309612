#!/usr/bin/env bash
# All work that needs an NVIDIA GPU, in less than ten minutes: tests, compute-sanitizer where it is installed, benchmark.
# Writes bench/results/<gpu>.json and prints the table.
set -euo pipefail
cd "$(dirname "$0")/.."

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
python -m pytest -q -m gpu
if command -v compute-sanitizer > /dev/null; then
  # The allocator hides writes beyond a tensor inside its own blocks; without it they are seen.
  for tool in memcheck racecheck; do
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 150 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      python -m pytest -q -m gpu tests/kernels/test_triton.py -k "pconv_block or cista or anchored_regression or conv2d_of"
  done
else
  echo "compute-sanitizer is not installed: not run"
fi
python bench/bench_gpu.py --tune
