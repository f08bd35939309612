# SPDX-License-Identifier: Apache-2.0
"""What a GPU kernel is held to, by tuning and by tests: error against float64 <= FACTOR times plain torch's at the same
precision, plus FLOOR of the output's size."""

FACTOR = 2.0
FLOOR = {"fp32": 2.0**-22, "tf32": 2.0**-11, "fp16": 2.0**-11, "bf16": 2.0**-8, "fp8": 2.0**-4}
"""one rounding of the output's size: where plain torch happens to be exact, a candidate need not be"""
