# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts for a machine that has compilers and torch but no network: installs the tree where it is not yet.
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1
if ! "$python" -c 'import fastsr._core, fastsr.kernels' 2> /dev/null; then
  "$python" -m pip install -q --no-build-isolation --no-deps .
  echo "built and installed in $SECONDS s"
fi
