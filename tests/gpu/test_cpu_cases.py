"""Every comparison of an op with the float64 reference that the CPU's tests make, with the native op on the device."""

import pytest
from ops import test_activation, test_affine, test_concretize, test_forward_windows, test_relax, test_windows

pytestmark = pytest.mark.usefixtures("native_on_cuda")


def comparisons(module):
    """The tests of a module that compare with the reference, under names of their own."""
    prefix = f"test_{module.__name__.rpartition('test_')[2]}"
    return {
        f"{prefix}_{name.removeprefix('test_')}": function
        for name, function in vars(module).items()
        if name.startswith("test_") and "assert_matches_reference" in function.__code__.co_names
    }


for module in (test_activation, test_affine, test_concretize, test_forward_windows, test_relax, test_windows):
    globals().update(comparisons(module))


def test_the_comparisons_of_every_module_are_here():
    names = [name for name in globals() if name.startswith("test_")]
    for family in ("activation", "affine", "concretize", "forward_windows", "relax", "windows"):
        assert any(name.startswith(f"test_{family}_") for name in names)
