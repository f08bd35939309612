# SPDX-License-Identifier: Apache-2.0
"""GPU device code: a folder a backend, a file an op."""
