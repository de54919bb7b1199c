"""The comparisons of products in float32 that the CPU's tests make, on tensor cores with split operands."""

import pytest
from ops import test_affine, test_windows
from ops.comparisons import comparisons

pytestmark = pytest.mark.usefixtures("split_products")

globals().update(comparisons(test_affine))
test_windows_through_a_convolution = test_windows.test_windows_through_a_convolution
