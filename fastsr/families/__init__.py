# SPDX-License-Identifier: Apache-2.0
"""The families. Each file: the torch module from its paper, its lowering to a plan, its variants, and how to tell a state
dict of it (`matches`, `from_state`)."""

FAMILIES = {
    "annet": "fastsr.families.annet:ANNet",
    "srcnn": "fastsr.families.srcnn:SRCNN",
    "btsrn": "fastsr.families.btsrn:BTSRN",
    "crnet_a": "fastsr.families.crnet:CRNetA",
    "crnet_b": "fastsr.families.crnet:CRNetB",
    "span": "fastsr.families.span:SPAN",
}
"""family -> "module:class", imported when first needed because it imports torch."""
