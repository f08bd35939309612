#!/usr/bin/env bash
# The shared library exports what symbols.txt lists and nothing else. usage: symbols.sh LIBRARY
diff -u "$(dirname "$0")/symbols.txt" <(nm -D --defined-only "$1" | awk '{print $3}' | sort)
