"""Every comparison of an op with the float64 reference that the CPU's tests make, with the native op on the device."""

import pytest
from ops import test_activation, test_affine, test_concretize, test_forward_windows, test_relax, test_windows
from ops.comparisons import comparisons

pytestmark = pytest.mark.usefixtures("native_on_cuda")

for module in (test_activation, test_affine, test_concretize, test_forward_windows, test_relax, test_windows):
    globals().update(comparisons(module))


def test_the_comparisons_of_every_module_are_here():
    names = [name for name in globals() if name.startswith("test_")]
    for family in ("activation", "affine", "concretize", "forward_windows", "relax", "windows"):
        assert any(name.startswith(f"test_{family}_") for name in names)
