# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts for a machine that has compilers and torch but no network. The tree itself is what runs, never an
# older installation of it: the C++ core is built in build/here, kernels/ is linked into the package.
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
build_core() {
  local config folder=build/here
  ln -sfn ../kernels fastsr/kernels
  config=(-S . -B "$folder" -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE="$(command -v "$python")")
  config+=(-Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)")
  if command -v ninja > /dev/null; then config+=(-G Ninja); fi
  mkdir -p "$folder"
  if ! { cmake "${config[@]}" && cmake --build "$folder" -j "$(nproc)"; } > "$folder/log.txt" 2>&1; then
    tail -n 40 "$folder/log.txt" >&2
    echo "build.sh: the C++ core cannot be built, see $folder/log.txt" >&2
    return 1
  fi
  # Beside its place first: another process may be importing the old one.
  cp "$folder"/csrc/_core*.so fastsr/.new && mv fastsr/.new "fastsr/$(basename "$folder"/csrc/_core*.so)"
}
build_core && "$python" -c 'import fastsr._core, fastsr.kernels' && echo "built in $SECONDS s"
