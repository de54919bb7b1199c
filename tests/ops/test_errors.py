"""Arguments that do not fit are refused, by an error that names the argument and what was found."""

import inspect

import pytest
import torch
from ops.cases import OP_NAMES, every_op, intervals, is_float, normal

import lbp
from lbp import _native, ops

KERNELS = [name for name in OP_NAMES if not name.startswith(("interval_", "backward_", "forward_", "insert"))]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("name", KERNELS)
def test_only_float32_and_float64(name, dtype):
    op, args, kwargs = every_op()[name]
    args = [value.to(dtype) if is_float(value) else value for value in args]
    with pytest.raises(RuntimeError, match="expected float32 or float64 tensors, got"):
        op(*args, **kwargs)


@pytest.mark.parametrize("name", OP_NAMES)
def test_one_dtype_for_all_arguments(name):
    op, args, kwargs = every_op()[name]
    if len([value for value in args if is_float(value)]) == 1:
        kwargs = {key: value.float() if is_float(value) else value for key, value in kwargs.items()}
    args = [args[0], *[value.float() if is_float(value) else value for value in args[1:]]]
    with pytest.raises(RuntimeError, match=r"expected (scalar type )?(Double|Float)|same"):
        op(*args, **kwargs)


@pytest.mark.parametrize("shape", [(4, 3), (2, 6), (3, 4, 1), (12,)])
@pytest.mark.parametrize("place", ["l", "u"])
def test_bounds_of_another_shape_are_refused_even_with_as_many_values(place, shape):
    l, u = intervals(2, 3, 4)
    other = normal(2, *shape)
    pair = (other, u) if place == "l" else (l, other)
    A = normal(1, 2, 5, 3, 4)
    for call in (
        lambda: ops.ramp_interval(*pair),
        lambda: ops.bounding_lines(*pair),
        lambda: ops.relax_backward(A, *pair, sides="lower"),
        lambda: ops.relax_forward(normal(2, 6, 3, 4), None, normal(2, 3, 4), None, *pair),
    ):
        with pytest.raises((RuntimeError, ValueError)):
            call()


MATRICES = ("center", "radius", "center_bias", "radius_bias")
ON_MATRICES = [name for name in OP_NAMES if {*MATRICES} <= {*inspect.signature(every_op()[name][0]).parameters}]


@pytest.mark.parametrize("which", MATRICES)
@pytest.mark.parametrize("name", ON_MATRICES)
def test_forward_matrices_of_another_shape_are_refused_even_with_as_many_values(name, which):
    op, args, kwargs = every_op()[name]
    place = list(inspect.signature(op).parameters).index(which)
    turned = args[place].mT.contiguous()
    assert turned.shape != args[place].shape
    with pytest.raises(RuntimeError):
        op(*args[:place], turned, *args[place + 1 :], **kwargs)


@pytest.mark.parametrize(("sides", "count"), [("lower", 2), ("upper", 2), ("both", 1), ("both", 3)])
@pytest.mark.parametrize("name", ["relax_backward", "concretize_box", "concretize_ball", "relax_backward_linear"])
def test_coefficients_hold_as_many_sides_as_are_asked_for(name, sides, count):
    op, args, kwargs = every_op()[name]
    A = torch.cat([args[0]] * 2)[:count]
    with pytest.raises(RuntimeError, match=r"A: expected \[[12], batch, rows, ...\] for these sides, got shape"):
        op(A, *args[1:], **{**kwargs, "sides": sides})


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("name", [name for name in OP_NAMES if "sides" in every_op()[name][2]])
def test_unknown_sides(name, backend):
    op, args, kwargs = every_op()[name]
    with (
        lbp.backend(backend),
        pytest.raises(ValueError, match="unknown sides 'left'; choose one of lower"),
    ):
        op(*args, **{**kwargs, "sides": "left"})


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("name", [name for name in OP_NAMES if "strategy" in every_op()[name][2]])
def test_strategies_and_given_lines_belong_together(name, backend):
    op, args, kwargs = every_op()[name]
    line = args[1] if name == "bounding_lines" else torch.zeros(1)
    with lbp.backend(backend):
        with pytest.raises(ValueError, match="unknown bounding-line strategy 'tightest'; choose one of constant"):
            op(*args, **{**kwargs, "strategy": "tightest"})
        with pytest.raises(ValueError, match="strategy 'tight' does not read given lines"):
            op(*args, **{**kwargs, "strategy": "tight"}, lower_slope=line)
        with pytest.raises(ValueError, match="strategy 'slopes' does not read given lines"):
            op(*args, **{**kwargs, "strategy": "slopes"}, lower_slope=line, lower_intercept=line)
        with pytest.raises(ValueError, match="strategy 'slopes' takes lower_slope, upper_slope or both"):
            op(*args, **{**kwargs, "strategy": "slopes"})
        with pytest.raises(ValueError, match="strategy 'lines' takes all four"):
            op(*args, **{**kwargs, "strategy": "lines"}, lower_slope=line, upper_slope=line)
        with pytest.raises(ValueError, match="margin_per_slope and margin go together"):
            op(*args, **kwargs, margin=line)


def test_margins_of_another_shape():
    l, u = intervals(2, 3, 4)
    one, every = torch.ones(2, 1, 1).double(), torch.ones(2, 3, 4).double()
    with pytest.raises(ValueError, match=r"margin_per_slope: expected a number for every neuron of \(3, 4\), got"):
        ops.bounding_lines(l, u, margin_per_slope=one, margin=one)
    with pytest.raises(ValueError, match=r"margin: expected a number for every neuron of \(3, 4\), got \(2, 4, 3\)"):
        ops.bounding_lines(l, u, margin_per_slope=every, margin=every.mT)
    with pytest.raises(RuntimeError, match=r"margin: expected a batch of 2 \(or 1\) and 1 values each"):
        ops.bounding_lines(l, u, margin_per_slope=every, margin=torch.ones(3, 1, 1).double())


def test_parameters_that_do_not_broadcast_to_the_layer():
    z = normal(2, 3, 4)
    with pytest.raises(ValueError, match=r"r of shape \(5,\) does not broadcast to the layer's shape \(3, 4\)"):
        ops.ramp(z, torch.ones(5).double())
    with pytest.raises(ValueError, match=r"eta must be a number or a tensor with one element, got shape \(2,\)"):
        ops.ramp(z, 1.0, torch.zeros(2))
    with pytest.raises(ValueError, match=r"bias of shape \(5,\) does not broadcast"):
        ops.relax_backward(normal(1, 2, 1, 3, 4), z, z + 1, sides="lower", bias=normal(5))


@pytest.mark.parametrize("p", [0.5, 0.0, -1.0, float("nan")])
def test_exponents_below_1(p):
    A, x0 = normal(1, 1, 1, 3), normal(1, 3)
    with pytest.raises(ValueError, match="p must be at least 1 for an l_p norm"):
        ops.concretize_ball(A, x0, 0.1, p, sides="lower")
    with pytest.raises(ValueError, match="p must be at least 1 for an l_p norm"):
        ops.concretize_forward_ball(A[0].mT, None, normal(1, 1), None, x0, 0.1, p)


def test_regions_of_another_size():
    A = normal(1, 2, 1, 3)
    with pytest.raises(RuntimeError, match=r"x_L: expected a batch of 2 \(or 1\) and 3 values each"):
        ops.concretize_box(A, normal(2, 4), normal(2, 4), sides="lower")
    with pytest.raises(RuntimeError, match="eps: expected 2 elements"):
        ops.concretize_ball(A, normal(2, 3), torch.ones(3), 2.0, sides="lower")


def test_a_missing_library_says_what_to_do(monkeypatch):
    monkeypatch.setattr(_native, "missing", "the compiled library liblbp.so is missing")
    z = normal(1, 2)
    with pytest.raises(_native.NativeLibraryMissingError, match=r"is missing; `lbp.backend\('reference'\)` computes"):
        ops.ramp(z, 1.0)
    with lbp.backend("reference"):
        assert torch.equal(ops.ramp(z, 1.0), z.clamp(min=0, max=1))


def test_a_library_that_is_not_there_or_does_not_load(monkeypatch, tmp_path):
    monkeypatch.setattr(_native, "LIBRARY", tmp_path / "liblbp.so")
    assert "pip install --no-build-isolation -e ." in (_native.load() or "")
    (tmp_path / "liblbp.so").write_bytes(b"no library")
    assert "does not load beside torch" in (_native.load() or "")


# Rows of 8 numbers, of which the second entry of a kernel reads one that lies 2^31 numbers behind the first entry's.
REACHES_TOO_FAR = {
    "interval_conv2d_fused": lambda image, weight, *geometry: (image, image, weight, None, *geometry),
    "forward_conv2d": lambda image, weight, *geometry: (image[None], None, image, None, weight, None, *geometry),
    "backward_conv2d": lambda image, weight, *geometry: (
        image.new_ones(1, 1, 1, 4, 1, 8),
        weight,
        None,
        [1, 8],
        *geometry,
    ),
}


@pytest.mark.skipif(_native.cuda_build == "none", reason="this build of lbp has no CUDA kernels")
@pytest.mark.parametrize("name", REACHES_TOO_FAR)
def test_a_convolution_beyond_what_devices_count_in_is_refused(name):
    geometry = [1, 1], [2**28, 0], [2**28, 1], 1
    arguments = REACHES_TOO_FAR[name](torch.ones(1, 1, 1, 8), torch.ones(4, 1, 3, 1), *geometry)
    on_devices = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)  # looks at sizes before it looks for a device
    with pytest.raises(RuntimeError, match="input and dilation: 4294967304 is out of the range of a convolution"):
        getattr(torch.ops.lbp, name).default.redispatch(on_devices, *arguments)
