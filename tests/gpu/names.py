"""The ops that serve CUDA devices."""

import torch
from ops.cases import OP_NAMES
from ops.test_registration import REGISTERED

NAMES = tuple(OP_NAMES)
REGISTERED_NAMES = tuple(
    name
    for name in REGISTERED
    if torch._C._dispatch_has_kernel_for_dispatch_key(f"lbp::{name}", "CUDA")
    or torch._C._dispatch_has_kernel_for_dispatch_key(f"lbp::{name}", "CompositeExplicitAutograd")
)
