# SPDX-License-Identifier: Apache-2.0
"""Quality on test sets, by the field's protocol (docs/architecture.md, "Measuring quality")."""

from fastsr.evaluate.protocol import evaluate, evaluate_folder

__all__ = ["evaluate", "evaluate_folder"]
