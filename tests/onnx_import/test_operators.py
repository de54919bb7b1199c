"""Every operator: the module computes what onnx's reference evaluator computes, and BoundedModule encloses it."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx_import.graphs import ints, model, node, normal, save

import lbp
from lbp.onnx_import import load_onnx, read_onnx

LINE, TOKENS, IMAGE = [1, 6], [1, 4, 6], [1, 2, 5, 7]

# operator cases: (nodes, shape of x, constants, opset)
CASES = {
    "Gemm": ([node("Gemm", ["x", "w", "b"])], LINE, {"w": normal(6, 3), "b": normal(3)}),
    "Gemm transposed and scaled": (
        [node("Gemm", ["x", "w", "b"], transB=1, alpha=0.5, beta=2.0)], LINE, {"w": normal(3, 6), "b": normal(1, 3)},
    ),
    "Gemm with one number added": ([node("Gemm", ["x", "w", "b"])], LINE, {"w": normal(6, 3), "b": normal()}),
    "Gemm without bias": ([node("Gemm", ["x", "w"])], LINE, {"w": normal(6, 3)}),
    "MatMul": ([node("MatMul", ["x", "w"])], LINE, {"w": normal(6, 3)}),
    "MatMul and Add": (
        [node("MatMul", ["x", "w"], "m"), node("Add", ["b", "m"])], LINE, {"w": normal(6, 3), "b": normal(3)},
    ),
    "MatMul and Add of a row": (
        [node("MatMul", ["x", "w"], "m"), node("Add", ["m", "b"])], LINE, {"w": normal(6, 3), "b": normal(1, 3)},
    ),
    "MatMul read twice, and Add": (
        [node("MatMul", ["x", "w"], "m"), node("Add", ["b", "m"], "a"), node("Add", ["a", "m"])],
        LINE, {"w": normal(6, 3), "b": normal(3)},
    ),
    "MatMul and an Add that widens": (
        [node("MatMul", ["x", "w"], "m"), node("Add", ["m", "b"])], LINE, {"w": normal(6, 1), "b": normal(3)},
    ),
    "MatMul over positions": ([node("MatMul", ["x", "w"])], TOKENS, {"w": normal(6, 3)}),
    "MatMul over positions and Add per position": (
        [node("MatMul", ["x", "w"], "m"), node("Add", ["m", "b"])], TOKENS, {"w": normal(6, 3), "b": normal(4, 1)},
    ),
    "MatMul from the left": ([node("MatMul", ["w", "x"])], TOKENS, {"w": normal(3, 4)}),
    "MatMul with leading ones": ([node("MatMul", ["x", "w"])], TOKENS, {"w": normal(1, 6, 3)}),
    "Conv": ([node("Conv", ["x", "w", "b"], pads=[1, 1, 1, 1])], IMAGE, {"w": normal(3, 2, 3, 3), "b": normal(3)}),
    "Conv options": (
        [node("Conv", ["x", "w"], strides=[2, 1], dilations=[1, 2], group=2, pads=[0, 2, 0, 2])],
        IMAGE, {"w": normal(4, 1, 2, 3)},
    ),
    "Conv with uneven padding": ([node("Conv", ["x", "w"], pads=[0, 1, 2, 0])], IMAGE, {"w": normal(3, 2, 3, 2)}),
    "Conv SAME_UPPER": (
        [node("Conv", ["x", "w"], auto_pad="SAME_UPPER", strides=[2, 2])], IMAGE, {"w": normal(3, 2, 2, 4)},
    ),
    "Conv SAME_LOWER": ([node("Conv", ["x", "w"], auto_pad="SAME_LOWER")], IMAGE, {"w": normal(3, 2, 2, 4)}),
    "Conv VALID": ([node("Conv", ["x", "w"], auto_pad="VALID")], IMAGE, {"w": normal(3, 2, 2, 4)}),
    "Conv over a line": (
        [node("Conv", ["x", "w", "b"], pads=[1, 0], strides=[2])], TOKENS, {"w": normal(3, 4, 3), "b": normal(3)},
    ),
    "Conv over a line in groups": (
        [node("Conv", ["x", "w"], auto_pad="SAME_UPPER", dilations=[2], group=2)], TOKENS, {"w": normal(2, 2, 2)},
    ),
    "ConvTranspose": (
        [node("ConvTranspose", ["x", "w", "b"], strides=[2, 3], pads=[1, 0, 1, 0], output_padding=[1, 2])],
        IMAGE, {"w": normal(2, 3, 3, 2), "b": normal(3)},
    ),
    "ConvTranspose with uneven padding": (
        [node("ConvTranspose", ["x", "w"], dilations=[1, 2], pads=[0, 2, 1, 0])], IMAGE, {"w": normal(2, 3, 3, 2)},
    ),
    "ConvTranspose of a small image by a large kernel": (
        [node("ConvTranspose", ["x", "w"], strides=[2, 2])], [1, 2, 1, 1], {"w": normal(2, 3, 4, 4)},
    ),
    "BatchNormalization": (
        [node("BatchNormalization", ["x", "s", "b", "m", "v"], epsilon=0.01)],
        IMAGE, {"s": normal(2), "b": normal(2, seed=1), "m": normal(2, seed=2), "v": normal(2) ** 2},
    ),
    "BatchNormalization of a line": (
        [node("BatchNormalization", ["x", "s", "b", "m", "v"])],
        LINE, {"s": normal(6), "b": normal(6, seed=1), "m": normal(6, seed=2), "v": normal(6) ** 2 + 0.1},
    ),
    "Relu": ([node("Relu", ["x"])], LINE, {}),
    "LeakyRelu": ([node("LeakyRelu", ["x"], alpha=0.3)], LINE, {}),
    "PRelu": ([node("PRelu", ["x", "s"])], IMAGE, {"s": np.full((2, 1, 1), 0.25)}),
    "Clip": ([node("Clip", ["x", "l", "h"])], LINE, {"l": np.array(-0.5), "h": np.array(0.75)}),
    "Clip attributes": ([node("Clip", ["x"], min=-0.5, max=0.5)], LINE, {}, 6),
    "Clip below": ([node("Clip", ["x", "l"])], LINE, {"l": np.array(-0.5)}),
    "Clip below at zero": ([node("Clip", ["x", "l"])], LINE, {"l": np.array(0.0)}),
    "Clip above": ([node("Clip", ["x", "", "h"])], LINE, {"h": np.array(0.5)}),
    "Clip nothing": ([node("Clip", ["x"])], LINE, {}),
    "Max": ([node("Max", ["c", "x"])], LINE, {"c": normal(6)}),
    "Max with zero": ([node("Max", ["x", "c"])], LINE, {"c": np.zeros(1)}),
    "Min": ([node("Min", ["x", "c"])], IMAGE, {"c": normal(2, 1, 1)}),
    "HardSigmoid": ([node("HardSigmoid", ["x"], alpha=0.4)], LINE, {}),
    "Add": ([node("Add", ["x", "c"])], IMAGE, {"c": normal(1, 2, 1, 1)}),
    "Add branches": ([node("Relu", ["x"], "r"), node("Add", ["x", "r"])], LINE, {}),
    "Add to itself": ([node("Add", ["x", "x"])], LINE, {}),
    "Sum": ([node("Relu", ["x"], "r"), node("Sum", ["r", "x"])], LINE, {}),
    "Sub": ([node("Sub", ["x", "c"])], IMAGE, {"c": normal(7)}),
    "Sub from a constant": ([node("Sub", ["c", "x"])], LINE, {"c": normal(6)}),
    "Sub branches": ([node("Relu", ["x"], "r"), node("Sub", ["x", "r"])], LINE, {}),
    "Mul": ([node("Mul", ["c", "x"])], LINE, {"c": normal()}),
    "Div": ([node("Div", ["x", "c"])], IMAGE, {"c": normal(2, 1, 1)}),
    "Neg": ([node("Neg", ["x"])], LINE, {}),
    "Flatten": ([node("Flatten", ["x"])], IMAGE, {}),
    "Flatten all": ([node("Flatten", ["x"], axis=0)], IMAGE, {}),
    "Reshape": ([node("Reshape", ["x", "s"])], IMAGE, {"s": ints(0, -1, 7)}),
    "Reshape with the batch of the file": ([node("Reshape", ["x", "s"])], IMAGE, {"s": ints(1, 70)}),
    "Reshape with a free batch": ([node("Reshape", ["x", "s"])], IMAGE, {"s": ints(-1, 70)}),
    "Squeeze": ([node("Unsqueeze", ["x", "a"], "u"), node("Squeeze", ["u", "a"])], LINE, {"a": ints(1)}),
    "Squeeze attributes": ([node("Unsqueeze", ["x"], "u", axes=[-1]), node("Squeeze", ["u"], axes=[2])], LINE, {}, 11),
    "Transpose": ([node("Transpose", ["x"], perm=[0, 2, 3, 1])], IMAGE, {}),
    "Concat": ([node("Relu", ["x"], "r"), node("Concat", ["x", "r"], axis=-2)], IMAGE, {}),
    "Pad": ([node("Pad", ["x", "p"])], IMAGE, {"p": ints(0, 0, 1, 2, 0, 0, 3, 0)}),
    "Pad attributes": ([node("Pad", ["x"], pads=[0, 0, 1, 2, 0, 0, 3, 0])], IMAGE, {}, 9),
    "Pad of some axes": (
        [node("Pad", ["x", "p", "", "a"])], IMAGE, {"p": ints(1, 2), "a": ints(-1)}, 18,
    ),
    "Pad a line": ([node("Pad", ["x", "p"])], LINE, {"p": ints(0, 2, 0, 1)}),
    "Pad channels": ([node("Pad", ["x", "p"])], IMAGE, {"p": ints(0, 1, 0, 2, 0, 3, 1, 0)}),
    "Pad by reflection": ([node("Pad", ["x", "p"], mode="reflect")], IMAGE, {"p": ints(0, 0, 1, 2, 0, 0, 3, 0)}),
    "Pad by the edge": ([node("Pad", ["x", "p"], mode="edge")], TOKENS, {"p": ints(0, 0, 1, 0, 0, 2)}),
    "Pad round the other way": ([node("Pad", ["x", "p"], mode="wrap")], IMAGE, {"p": ints(0, 0, 1, 2, 0, 0, 3, 0)}, 19),
    "Pad nothing": ([node("Pad", ["x", "p"])], LINE, {"p": ints(0, 0, 0, 0)}),
    "Slice": (
        [node("Slice", ["x", "s", "e", "a", "t"])], IMAGE,
        {"s": ints(1, -6), "e": ints(9, 6), "a": ints(2, -1), "t": ints(1, 2)},
    ),
    "Slice backwards": (
        [node("Slice", ["x", "s", "e", "a", "t"])], IMAGE,
        {"s": ints(9, -2), "e": ints(-(2**63), 1), "a": ints(2, -1), "t": ints(-1, -2)},
    ),
    "Slice attributes": ([node("Slice", ["x"], axes=[1], starts=[1], ends=[4])], LINE, {}, 9),
    "Slice nothing away": ([node("Slice", ["x", "s", "e"])], LINE, {"s": ints(0), "e": ints(9)}),
    "Split": ([node("Split", ["x", "n"], ["a", "y"], axis=1)], LINE, {"n": ints(2, 4)}),
    "Split whose first part has no name": ([node("Split", ["x", "n"], ["", "y"], axis=1)], LINE, {"n": ints(2, 4)}),
    "Gather": ([node("Gather", ["x", "i"], axis=2)], IMAGE, {"i": np.int64(-1)}),
    "Gather a range": ([node("Gather", ["x", "i"], axis=1)], LINE, {"i": ints(2, 3)}),
    "Gather in any order": ([node("Gather", ["x", "i"], axis=-1)], IMAGE, {"i": ints(2, -7, 2)}),
    "Gather a table": ([node("Gather", ["x", "i"], axis=1)], TOKENS, {"i": ints(2, 0, 1, 1, 3, -1).reshape(3, 2)}),
    "Resize": ([node("Resize", ["x", "", "s"])], IMAGE, {"s": np.array([1.0, 1.0, 2.0, 3.0])}),
    "Resize as PyTorch exports it": (
        [
            node(
                "Resize", ["x", "", "", "n"],
                mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric",
            )
        ],
        IMAGE, {"n": ints(1, 2, 20, 7)},
    ),
    "Tile": ([node("Tile", ["x", "n"])], TOKENS, {"n": ints(1, 2, 3)}),
    "Expand": ([node("Expand", ["x", "n"])], [1, 2, 1, 3], {"n": ints(4, 1)}),
    "DepthToSpace": ([node("DepthToSpace", ["x"], blocksize=2)], [1, 8, 2, 3], {}),
    "DepthToSpace by columns": ([node("DepthToSpace", ["x"], blocksize=2, mode="CRD")], [1, 8, 2, 3], {}),
    "SpaceToDepth": ([node("SpaceToDepth", ["x"], blocksize=2)], [1, 2, 4, 6], {}),
    "AveragePool": ([node("AveragePool", ["x"], kernel_shape=[2, 3], strides=[1, 2])], IMAGE, {}),
    "AveragePool with padding": ([node("AveragePool", ["x"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])], IMAGE, {}),
    "AveragePool that counts padding": (
        [node("AveragePool", ["x"], kernel_shape=[3, 3], pads=[1, 0, 0, 2], count_include_pad=1)], IMAGE, {},
    ),
    "MaxPool": ([node("MaxPool", ["x"], kernel_shape=[2, 3], strides=[2, 2], pads=[1, 1, 1, 1])], IMAGE, {}),
    "MaxPool dilated": ([node("MaxPool", ["x"], kernel_shape=[2, 2], dilations=[2, 3])], IMAGE, {}),
    "AveragePool over a line": ([node("AveragePool", ["x"], kernel_shape=[3], strides=[2], pads=[1, 1])], TOKENS, {}),
    "MaxPool over a line": ([node("MaxPool", ["x"], kernel_shape=[3], strides=[2], pads=[1, 1])], TOKENS, {}),
    "GlobalAveragePool": ([node("GlobalAveragePool", ["x"])], IMAGE, {}),
    "GlobalMaxPool": ([node("GlobalMaxPool", ["x"])], IMAGE, {}),
    "ReduceMean": ([node("ReduceMean", ["x"], axes=[1, -1], keepdims=0)], IMAGE, {}),
    "ReduceMean of an input's axes": ([node("ReduceMean", ["x", "a"])], IMAGE, {"a": ints(2)}, 18),
    "ReduceSum": ([node("ReduceSum", ["x", "a"])], IMAGE, {"a": ints(2, 3)}),
    "ReduceSum of nothing": ([node("ReduceSum", ["x"], noop_with_empty_axes=1)], LINE, {}),
    "Identity, Dropout, Cast": (
        [node("Identity", ["x"], "i"), node("Dropout", ["i"], "d"), node("Cast", ["d"], to=TensorProto.FLOAT)],
        LINE, {},
    ),
    "a chain of shapes": (
        [
            node("Shape", ["x"], "s"),
            node("Gather", ["s", "zero"], "batch", axis=0),
            node("Unsqueeze", ["batch", "axes"], "first"),
            node("Concat", ["first", "rest"], "shape", axis=0),
            node("Reshape", ["x", "shape"]),
        ],
        IMAGE, {"zero": np.int64(0), "axes": ints(0), "rest": ints(-1)},
    ),
    "constants computed from constants": (
        [
            node("Constant", [], "c", value_floats=[1.0, -2.0]),
            node("Concat", ["c", "c", "c"], "six", axis=0),
            node("Mul", ["x", "six"]),
        ],
        LINE, {},
    ),
    "a node that nothing reads": ([node("Softmax", ["x"], "unread"), node("Relu", ["x"])], LINE, {}),
}  # fmt: skip


def made(folder, name):
    nodes, shape, constants, *rest = CASES[name]
    return save(folder, model(nodes, shape, constants, opset=rest[0] if rest else 17))


@pytest.mark.parametrize("name", CASES)
def test_the_module_computes_what_the_reference_evaluator_does(name, tmp_path):
    path = made(tmp_path, name)
    network, file = load_onnx(path), read_onnx(path)
    batch = torch.from_numpy(normal(5, *network.input_shape, seed=7)).float()
    expected = np.stack([file.evaluate(x.numpy()) for x in batch])
    found = network(batch)
    assert tuple(found.shape) == (5, *network.output_shape)
    np.testing.assert_allclose(found.detach().reshape(5, -1).numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_bounds_of_the_module_hold_its_values(name, tmp_path):
    network = load_onnx(made(tmp_path, name)).double()
    center = torch.from_numpy(normal(1, *network.input_shape, seed=8))
    bounded = lbp.BoundedModule(network, center)
    region = lbp.BoundedTensor(center, lbp.PerturbationLpNorm(eps=0.3))
    points = center + 0.6 * (torch.from_numpy(np.random.default_rng(1).random((50, *network.input_shape))) - 0.5)
    values = network(points)
    for method in ("IBP", "CROWN-LBP", "CROWN"):
        lower, upper = bounded.compute_bounds(x=(region,), method=method)
        assert ((lower - 1e-9 <= values) & (values <= upper + 1e-9)).all()


@pytest.mark.parametrize("opset", [7, 9, 13, 15])
def test_batch_normalization_takes_the_stored_statistics_in_every_version(opset, tmp_path):
    statistics = {"s": normal(2), "b": normal(2, seed=1), "m": normal(2, seed=2), "v": normal(2) ** 2 + 0.5}
    nodes = [node("BatchNormalization", ["x", "s", "b", "m", "v"], momentum=0.8)]
    path = save(tmp_path, model(nodes, IMAGE, statistics, opset=opset))
    scale, shift, mean, variance = (torch.from_numpy(statistics[name]).float() for name in "sbmv")
    x = torch.from_numpy(normal(*IMAGE, seed=3)).float()
    expected = torch.nn.functional.batch_norm(x, mean, variance, scale, shift)
    assert torch.allclose(load_onnx(path)(x), expected, atol=1e-6)
    np.testing.assert_allclose(read_onnx(path).evaluate(x.numpy()), expected.flatten().numpy(), atol=1e-6)


def test_a_matrix_product_and_the_bias_after_it_become_one_layer(tmp_path):
    network = load_onnx(made(tmp_path, "MatMul and Add"))
    (layer,) = network.children()
    assert isinstance(layer, torch.nn.Linear)
    assert layer.bias is not None


def test_a_network_in_double_precision_keeps_its_weights(tmp_path):
    weight = normal(6, 3)
    path = save(tmp_path, model([node("MatMul", ["x", "w"])], LINE, {"w": weight}, element=TensorProto.DOUBLE))
    network = load_onnx(path)
    assert torch.equal(next(network.parameters()), torch.from_numpy(weight).T)
    with_limit = model([node("Clip", ["x", "l"])], LINE, {"l": np.array(0.1)}, element=TensorProto.DOUBLE)
    clipped = load_onnx(save(tmp_path, with_limit, "clip.onnx"))
    assert clipped(torch.zeros(1, 6, dtype=torch.float64)).max() == 0.1
    # A limit that every number of float32 keeps is one in float64.
    largest = float(np.finfo(np.float32).max)
    with_limit = model([node("Clip", ["x", "", "h"])], LINE, {"h": np.array(largest)}, element=TensorProto.DOUBLE)
    clipped = load_onnx(save(tmp_path, with_limit, "far.onnx"))
    assert clipped(torch.full((1, 6), 1e39, dtype=torch.float64)).max() == largest


def test_modules_are_named_after_nodes_and_names_are_made_unique(tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="features/0/Relu"),
        helper.make_node("Relu", ["a"], ["b"], name="features/0/Relu"),
        helper.make_node("Relu", ["b"], ["c"], name="train"),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    network = load_onnx(save(tmp_path, model(nodes, LINE)))
    assert [name for name, _ in network.named_children()] == ["features_0_Relu", "features_0_Relu_", "train_", "Relu_3"]


def test_the_name_of_a_node_need_not_be_text(tmp_path):
    path = save(tmp_path, model([node("Relu", ["x"])], LINE))
    path.write_bytes(path.read_bytes().replace(b"the_Relu", b"the_\xff\xfelu"))
    assert torch.equal(load_onnx(path)(-torch.ones(1, 6)), torch.zeros(1, 6))


def test_weights_can_be_trained_and_saved(tmp_path):
    network = load_onnx(made(tmp_path, "Gemm"))
    network(torch.ones(2, 6)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    network.load_state_dict(torch.load(tmp_path / "weights.pt"))


LAYERS = {
    "gemm": lambda i, n, m: ([node("Gemm", [f"v{i}", f"w{i}", f"b{i}"], f"v{i + 1}")], m),
    "relu": lambda i, n, m: ([node("Relu", [f"v{i}"], f"v{i + 1}")], n),
    "leaky": lambda i, n, m: ([node("LeakyRelu", [f"v{i}"], f"v{i + 1}", alpha=0.1)], n),
    "residual": lambda i, n, m: ([node("Relu", [f"v{i}"], f"r{i}"), node("Add", [f"r{i}", f"v{i}"], f"v{i + 1}")], n),
    "join": lambda i, n, m: ([node("Concat", [f"v{i}", f"v{i}"], f"v{i + 1}", axis=1)], 2 * n),
    "half": lambda i, n, m: ([node("Mul", [f"v{i}", "half"], f"v{i + 1}")], n),
}  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=6),
    sizes=st.lists(st.integers(1, 5), min_size=6, max_size=6),
)
def test_random_stacks_agree_with_the_reference_evaluator(kinds, sizes, tmp_path):
    nodes, constants, width = [node("Identity", ["x"], "v0")], {"half": np.array(0.5)}, 3
    for i, kind in enumerate(kinds):
        added, after = LAYERS[kind](i, width, sizes[i])
        constants |= {f"w{i}": normal(width, sizes[i], seed=i), f"b{i}": normal(sizes[i], seed=i)}
        nodes, width = nodes + added, after
    proto = model([*nodes, node("Identity", [f"v{len(kinds)}"])], [1, 3], constants)
    path = save(tmp_path, proto)
    network, file = load_onnx(path), read_onnx(path)
    x = torch.from_numpy(normal(4, 3, seed=9)).float()
    expected = np.stack([file.evaluate(one.numpy()) for one in x])
    np.testing.assert_allclose(network(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    assert network.output_shape == (width,)
