# SPDX-License-Identifier: Apache-2.0
"""python -m fastsr."""

from fastsr.cli import main

main()
