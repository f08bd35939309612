#!/usr/bin/env bash
# Installs a build to a new prefix, builds the programs of outside/ from what lies there alone, with CMake and with
# pkg-config, and runs them on every model. usage: outside.sh BUILD WORK
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) build=$(cd "$1" && pwd) work=$2
rm -rf "$work" && mkdir -p "$work/src" && work=$(cd "$work" && pwd)
cmake --install "$build" --prefix "$work/first" > "$work/install.log"
mv "$work/first" "$work/prefix"  # a tree may be moved
cp "$here"/outside/* "$work/src"
cd "$work"
cmake -S src -B cmake -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_BUILD_TYPE=Release > cmake.log
cmake --build cmake >> cmake.log
programs=(cmake/upscale_c cmake/upscale_cpp)
[ ! -e cmake/upscale_static ] || programs+=(cmake/upscale_static)
if command -v pkg-config > /dev/null; then
  export PKG_CONFIG_PATH=$(dirname "$(find "$work/prefix" -name fastsr.pc)")
  lib=$(pkg-config --variable=libdir fastsr)
  ${CC:-cc} src/upscale.c $(pkg-config --cflags --libs fastsr) "-Wl,-rpath,$lib" -o pkg_c
  ${CXX:-c++} -std=c++17 src/upscale.cpp $(pkg-config --cflags --libs fastsr) "-Wl,-rpath,$lib" -o pkg_cpp
  programs+=(./pkg_c ./pkg_cpp)
fi
unset FASTSR_MODELS
head -c 900 cmake/upscale_c > in
for path in prefix/share/fastsr/models/*.safetensors; do
  model=$(basename "$path" .safetensors)
  # A static program does not lie beside the models.
  for program in "${programs[@]}"; do
    FASTSR_MODELS=$([[ $program != *static ]] || echo prefix/share/fastsr/models) "$program" "$model" < in > out
    [ "$program" = "${programs[0]}" ] && cp out "expected_$model" || cmp out "expected_$model"
  done
done
echo "${#programs[@]} programs agree on $(ls prefix/share/fastsr/models | wc -l) models"
