"""The ops that have a kernel for CUDA devices."""

import torch
from ops.cases import OP_NAMES
from ops.test_registration import REGISTERED

# Bounds on windows are evaluated over the region by a kernel for the CPU only.
NAMES = tuple(name for name in OP_NAMES if not name.startswith("concretize_forward_windows"))
REGISTERED_NAMES = tuple(
    name
    for name in REGISTERED
    if torch._C._dispatch_has_kernel_for_dispatch_key(f"lbp::{name}", "CUDA")
    or torch._C._dispatch_has_kernel_for_dispatch_key(f"lbp::{name}", "CompositeExplicitAutograd")
)
