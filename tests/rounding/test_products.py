"""What bounds assume of products: sums of products of the operands themselves, whatever the libraries could do."""

import ctypes
import platform
import re

import pytest
import torch
from rounding.cases import bounds, box, fill
from torch import nn
from torch.nn import functional

from lbp.errors import UnanalysedRoundingError
from lbp.precision import X86_64, check_products, full_precision


def test_the_library_convolves_directly(capfd):
    # Shapes for which oneDNN has Winograd's algorithm.
    x, weight = torch.randn(16, 32, 12, 12), torch.randn(32, 32, 3, 3)
    if not torch.backends.mkldnn.is_available():
        pytest.skip("PyTorch without oneDNN convolves by matrix products")
    with full_precision(), torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        functional.conv2d(x, weight, padding=1)
        functional.conv_transpose2d(x, weight, padding=1)
    algorithms = re.findall(r"alg:(convolution\w*|deconvolution\w*)", capfd.readouterr().out)
    assert algorithms
    assert {name.split("_")[-1] for name in algorithms} == {"direct"}


def test_nnpack_which_may_choose_winograds_algorithm_is_off():
    (before,) = torch.backends.nnpack.set_flags(True)
    try:
        with full_precision():
            assert not torch._C._get_nnpack_enabled()
        assert torch._C._get_nnpack_enabled()
    finally:
        torch.backends.nnpack.set_flags(before)


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("ONEDNN_DEFAULT_FPMATH_MODE", "cpu"),
        ("DNNL_DEFAULT_FPMATH_MODE", "cpu"),
        ("CUBLAS_EMULATE_SINGLE_PRECISION", "cuda"),
        ("CUBLAS_EMULATE_DOUBLE_PRECISION", "cuda"),
        ("NVIDIA_TF32_OVERRIDE", "cuda"),
        ("LBP_CUDA_TENSOR_CORES", "cuda"),
    ],
)
def test_an_environment_that_changes_products_is_refused(name, device, monkeypatch):
    check_products(torch.device(device))
    monkeypatch.setenv(name, "bf16" if device == "cpu" else "1")
    with pytest.raises(UnanalysedRoundingError, match=name):
        check_products(torch.device(device))


# FE_UPWARD, FE_DOWNWARD and FE_TOWARDZERO of x86-64.
@pytest.mark.skipif(platform.machine() not in X86_64, reason="other processors number rounding modes otherwise")
@pytest.mark.parametrize("mode", [0x800, 0x400, 0xC00])
def test_a_thread_that_does_not_round_to_nearest_is_refused(mode):
    model, (lower, upper) = fill(nn.Sequential(nn.Linear(3, 2)), "gaussian"), box(1, 3)
    library = ctypes.CDLL("libm.so.6")
    before = library.fegetround()
    try:
        library.fesetround(mode)
        with pytest.raises(UnanalysedRoundingError, match="this thread does not round to nearest"):
            bounds(model, lower, upper, method="CROWN", rounding="outward")
    finally:
        library.fesetround(before)
    bounds(model, lower, upper, method="CROWN", rounding="outward")


def test_only_bounds_that_account_for_rounding_need_such_products(monkeypatch):
    model, (lower, upper) = fill(nn.Sequential(nn.Linear(3, 2)), "gaussian"), box(1, 3)
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "any")
    bounds(model, lower, upper, method="IBP", rounding="nearest")
    with pytest.raises(UnanalysedRoundingError, match="ONEDNN_DEFAULT_FPMATH_MODE=any"):
        bounds(model, lower, upper, method="IBP", rounding="outward")


def test_depthwise_convolutions_by_winograds_algorithm_on_other_processors_are_refused(monkeypatch):
    depthwise, (lower, upper) = fill(nn.Sequential(nn.Conv2d(2, 4, 3, groups=2)), "gaussian"), box(1, 2, 5, 5)
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    for method in ("IBP", "CROWN", "LBP"):
        with pytest.raises(UnanalysedRoundingError, match=r"'0'.* Winograd's algorithm .* \(arm64\)"):
            bounds(depthwise, lower, upper, method=method, rounding="outward")
        bounds(depthwise, lower, upper, method=method, rounding="nearest")
        bounds(nn.Sequential(nn.Conv2d(2, 4, 3, groups=2, stride=2)), lower, upper, method=method, rounding="outward")
        bounds(nn.Sequential(nn.Conv2d(2, 4, 3)), lower, upper, method=method, rounding="outward")
    bounds(depthwise.double(), lower.double(), upper.double(), method="IBP", rounding="outward")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    bounds(depthwise.float(), lower, upper, method="IBP", rounding="outward")
