#!/usr/bin/env bash
# Compiles every program that docs/embedding.md and fastsr.h show. usage: manual.sh SOURCE LIBRARY_FOLDER WORK
set -euo pipefail
source=$1 lib=$2 work=$3
rm -rf "$work" && mkdir -p "$work"
awk '/^ \*   #include/ { on = 1 } on && /^ \*   / { print substr($0, 6) } on && !/^ \*/ { exit } on && /^ \*$/ { print "" }
     on && /^ \* Rules/ { exit }' "$source/csrc/include/fastsr/fastsr.h" > "$work/header.c"
awk -v work="$work" '/^```/ { if (on) { on = 0; close(name) } else if ($0 == "```c" || $0 == "```cpp") {
     on = 1; name = work "/doc" ++n "." substr($0, 4) } next } on { print > name }' "$source/docs/embedding.md"
count=0
for program in "$work"/*.c "$work"/*.cpp; do
  grep -q "main(" "$program"
  case $program in
    *.c) compile=(${CC:-cc} -std=c99) ;;
    *) compile=(${CXX:-c++} -std=c++17) ;;
  esac
  "${compile[@]}" -Wall -Wextra -Werror -I"$source/csrc/include" "$program" -L"$lib" -lfastsr -lpthread \
    "-Wl,-rpath,$lib" -o "$program.out"
  count=$((count + 1))
done
[ $count -ge 3 ]
"$work/header.c.out"
echo "$count programs compile"
