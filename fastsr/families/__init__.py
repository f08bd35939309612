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
    "compact": "fastsr.families.compact:Compact",
    "rrdb": "fastsr.families.rrdb:RRDB",
    "edsr": "fastsr.families.edsr:EDSR",
    "disp": "fastsr.families.disp:DISP",
    "errn": "fastsr.families.errn:ERRN",
    "fsrcnn": "fastsr.families.fsrcnn:FSRCNN",
    "espcn": "fastsr.families.espcn:ESPCN",
}
"""family -> "module:class", imported when first needed because it imports torch."""
