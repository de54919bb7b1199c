"""What the CPU's tests say of NaN, of gradients where there are none, and of lines in float32, on the device."""

import pytest
from ops import test_gradient_conventions, test_lines_in_floating_point, test_nan

pytestmark = pytest.mark.usefixtures("cuda_by_default")
# The number in a tensor on the device is not read: such bounds are NaN, as test_errors.py shows.
NOT_HERE = {"test_a_tensor_eta_outside_its_range_gives_no_bound"}

for module in (test_gradient_conventions, test_lines_in_floating_point, test_nan):
    found = {name: value for name, value in vars(module).items() if name.startswith("test_") and name not in NOT_HERE}
    assert found.keys().isdisjoint(globals())
    globals().update(found)
