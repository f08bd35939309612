#!/usr/bin/env bash
# The GPU tests of our kernels under compute-sanitizer: out-of-bounds accesses and data races on the real device. Takes
# long; bench/gpu_smoke.py --sanitizer does a small part. torch's caching allocator is off, so that an access beside a
# tensor is one beside an allocation.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
if ! command -v compute-sanitizer > /dev/null; then
  echo "sanitize.sh: no compute-sanitizer in PATH: it comes with the CUDA toolkit, in bin/" >&2
  exit 1
fi
status=0
for tool in memcheck racecheck; do # what one finds is no reason not to run the other
  echo "== $tool"
  compute-sanitizer --tool "$tool" --error-exitcode 9 --target-processes all \
    "${PYTHON:-python3}" -m pytest -q -m gpu tests/cuda tests/kernels/test_triton.py \
    -k "on_the_gpu or pconv_block or cista or anchored_regression or conv2d_of" "$@" || status=$?
done
exit $status
