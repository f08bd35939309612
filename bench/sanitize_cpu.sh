#!/usr/bin/env bash
# The core and libfastsr under a sanitizer: the library's tests, then random graphs, whose worker process has numpy and the
# core alone to watch.
#
#   bash bench/sanitize_cpu.sh address     # and undefined behaviour
#   bash bench/sanitize_cpu.sh thread
#   MINUTES=60 SEED=7 BUILD=build/asan CXX=clang++ bash bench/sanitize_cpu.sh address
#
# Needs what the tests need (README), and for the library's tests GoogleTest.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:-}
case $kind in
  address) runtime=libasan.so ;;
  thread) runtime=libtsan.so ;;
  *) echo "usage: bash bench/sanitize_cpu.sh address|thread" >&2 && exit 2 ;;
esac
build=${BUILD:-build/sanitize-$kind}
python=${PYTHON:-python3}
export ASAN_OPTIONS=detect_leaks=0:halt_on_error=1
export UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1

cmake -S . -B "$build" -DFASTSR_SANITIZE="$kind" -DFASTSR_STATIC=OFF -DFASTSR_PYTHON=ON -DPython_EXECUTABLE="$(command -v "$python")" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" > /dev/null
cmake --build "$build" -j "${JOBS:-$(nproc)}" --target _core test_lib test_ops
ctest --test-dir "$build" --output-on-failure -R '^(lib|ops)$'

# The package as it is, with this core instead of the installed one.
package=$build/package/fastsr
rm -rf "$package" && mkdir -p "$package"
ln -s "$PWD"/fastsr/*.py "$PWD"/fastsr/*/ "$package/"
cp "$build"/csrc/_core*.so "$package/"
compiler=$(sed -n 's/^CMAKE_CXX_COMPILER:[A-Z]*=//p' "$build/CMakeCache.txt")
if "$compiler" --version | grep -q clang; then
  runtime=libclang_rt.${runtime#lib}
  runtime=${runtime%.so}-$(uname -m).so
fi
# libstdc++ must be there when the sanitizer looks for what throws exceptions: Python has none.
preload="$("$compiler" -print-file-name="$runtime"):$("$compiler" -print-file-name=libstdc++.so.6)"
PYTHONPATH=tests "$python" -m graphs.search --minutes "${MINUTES:-2}" --seed "${SEED:-0}" --package "$build/package" \
  --preload "$preload"
