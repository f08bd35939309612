# SPDX-License-Identifier: Apache-2.0
"""GPU device code, one file per op (none yet)."""
