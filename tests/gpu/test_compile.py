"""What the CPU's tests say of compiled and exported functions, with tensors on the device."""

import pytest
from ops import test_compile

pytestmark = pytest.mark.usefixtures("native_on_cuda")
globals().update({name: value for name, value in vars(test_compile).items() if name.startswith("test_")})
