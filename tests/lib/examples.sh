#!/usr/bin/env bash
# The examples in C and C++ give the same image. usage: examples.sh FOLDER
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
{ printf 'P6\n24 16\n255\n'; head -c 1152 "$1/upscale_c"; } > "$work/in.ppm"
"$1/upscale_c" annet_x3 < "$work/in.ppm" > "$work/c.ppm"
"$1/upscale_image" -m annet_x3 -t 2 "$work/in.ppm" "$work/cpp.ppm"
cmp "$work/c.ppm" "$work/cpp.ppm"
if "$1/upscale_image" "$work/in.ppm" "$work/out.png" 2> "$work/error"; then
  "$1/upscale_image" -m srcnn_915_x2 "$work/out.png" "$work/larger.ppm"
  [ "$(head -c 10 "$work/larger.ppm")" = "P6
144 96" ]
else
  grep -q "built without libpng" "$work/error"
fi
! "$1/upscale_image" -m no_such_model "$work/in.ppm" "$work/out.ppm" 2> "$work/error"
grep -q "no_such_model" "$work/error"
