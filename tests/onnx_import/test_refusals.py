"""What cannot be read is named: the file, the operator, the node and the shapes."""

import gzip
import importlib.util
import math

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx_import.graphs import ints, model, node, normal, save
from torch import nn

from lbp.errors import MissingPackageError, OnnxFileError, UnsupportedLayerError
from lbp.onnx_import import load_onnx, read_onnx
from lbp.onnx_import.registry import OPERATORS


class Flipped(nn.Module):
    """The examples of a batch in the opposite order, rectified."""

    def forward(self, x):
        return x.flip(0).relu()


LINE, IMAGE = [1, 6], [1, 2, 5, 7]

UNSUPPORTED = {
    "an unknown operator": ([node("Sigmoid", ["x"])], LINE, {}, "Sigmoid (node 'the_Sigmoid') on 'x' [1, 6]"),
    "a product": ([node("Mul", ["x", "x"])], LINE, {}, "both depend"),
    "a matrix product": ([node("MatMul", ["x", "x"])], [1, 6, 6], {}, "both depend"),
    "a divisor": ([node("Div", ["c", "x"])], LINE, {"c": normal(6)}, "divides by a value"),
    "a division by zero": ([node("Div", ["x", "c"])], LINE, {"c": np.zeros(6)}, "zero"),
    "a slope": ([node("LeakyRelu", ["x"], alpha=1.5)], LINE, {}, "slope 1.5"),
    "slopes": ([node("PRelu", ["x", "s"])], LINE, {"s": normal(6)}, "6 different slopes"),
    "NaN in weights": ([node("MatMul", ["x", "w"])], LINE, {"w": np.full((6, 2), np.nan)}, "12 NaN or infinite"),
    "weights of another type": ([node("MatMul", ["x", "w"])], LINE, {"w": np.ones((6, 2), np.int64)}, "type int64"),
    "weights of another size": ([node("MatMul", ["x", "w"])], LINE, {"w": normal(5, 2)}, "does not fit"),
    "the batch moved": ([node("Transpose", ["x"], perm=[1, 0])], LINE, {}, "batch must stay first"),
    "the batch reshaped away": ([node("Reshape", ["x", "s"])], LINE, {"s": ints(2, 3)}, "[2, 3]"),
    "entries lost": ([node("Reshape", ["x", "s"])], LINE, {"s": ints(1, 4)}, "number of entries"),
    "the batch squeezed": ([node("Squeeze", ["x"])], LINE, {}, "must stay the batch"),
    "the batch reduced": ([node("ReduceMean", ["x"], axes=[0])], LINE, {}, "batch"),
    "the batch joined": ([node("Concat", ["x", "x"], axis=0)], LINE, {}, "batch"),
    "a batch of constants": ([node("Add", ["x", "c"])], LINE, {"c": normal(2, 6)}, "batch of its own"),
    "padding that is not zero": (
        [node("Pad", ["x", "p", "v"])], IMAGE, {"p": ints(0, 0, 1, 0, 0, 0, 0, 0), "v": np.array(1.0)},
        "value=1.0",
    ),
    "padding of channels by reflection": (
        [node("Pad", ["x", "p"], mode="reflect")], IMAGE, {"p": ints(0, 1, 0, 0, 0, 0, 0, 0)}, "the channels",
    ),
    "padding of the batch": ([node("Pad", ["x", "p"])], LINE, {"p": ints(1, 0, 0, 0)}, "pads the batch"),
    "steps to nowhere": (
        [node("Slice", ["x", "s", "e", "a", "t"])], LINE,
        {"s": ints(5), "e": ints(0), "a": ints(1), "t": ints(0)}, "damaged",
    ),
    "nothing, backwards": (
        [node("Slice", ["x", "s", "e", "a", "t"])], LINE,
        {"s": ints(0), "e": ints(5), "a": ints(1), "t": ints(-1)}, "picks nothing",
    ),
    "the batch backwards": (
        [node("Slice", ["x", "s", "e", "a", "t"])], LINE,
        {"s": ints(0), "e": ints(-9), "a": ints(0), "t": ints(-1)}, "along the batch",
    ),
    "entries of the batch": ([node("Gather", ["x", "i"], axis=0)], LINE, {"i": ints(0, 0)}, "along the batch"),
    "a part of a pixel": (
        [node("Resize", ["x", "", "s"])], IMAGE, {"s": np.array([1.0, 1.0, 1.5, 1.0])}, "whole multiples",
    ),
    "pixels that are not the nearest": (
        [node("Resize", ["x", "", "s"], mode="linear")], IMAGE, {"s": np.array([1.0, 1.0, 2.0, 2.0])}, "mode='linear'",
    ),
    "pixels of other places": (
        [node("Resize", ["x", "", "s"], nearest_mode="ceil", coordinate_transformation_mode="asymmetric")],
        IMAGE, {"s": np.array([1.0, 1.0, 2.0, 2.0])}, "not read as onnx defines it",
    ),
    "the batch repeated": ([node("Tile", ["x", "n"])], LINE, {"n": ints(2, 1)}, "repeats the batch"),
    "the batch expanded": ([node("Expand", ["x", "n"])], LINE, {"n": ints(3, 1, 6)}, "batch must stay first"),
    "a transposed convolution of a stated size": (
        [node("ConvTranspose", ["x", "w"], output_shape=[8, 8])], IMAGE, {"w": normal(2, 3, 3, 3)}, "output_shape",
    ),
    "a convolution of volumes": ([node("Conv", ["x", "w"])], [1, 1, 4, 4, 4], {"w": normal(1, 1, 2, 2, 2)}, "kernel"),
    "a window larger than the image": ([node("MaxPool", ["x"], kernel_shape=[6, 6])], IMAGE, {}, "larger than"),
    "ceil mode": ([node("MaxPool", ["x"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], IMAGE, {}, "ceil_mode"),
    "an axis out of range": ([node("Concat", ["x", "x"], axis=4)], LINE, {}, "axes [4]"),
    "limits in the wrong order": (
        [node("Clip", ["x", "l", "h"])], LINE, {"l": np.array(1.0), "h": np.array(-1.0)}, "[1.0, -1.0]",
    ),
    "entries beyond the end": ([node("Gather", ["x", "i"], axis=1)], LINE, {"i": ints(5, 6)}, "5 to 6 of a dimension"),
    "entries before the start": ([node("Gather", ["x", "i"], axis=1)], LINE, {"i": np.int64(-7)}, "-7 to -7"),
    "a kernel of another shape than stated": (
        [node("Conv", ["x", "w"], kernel_shape=[5, 5], pads=[2, 2, 2, 2])], IMAGE, {"w": normal(3, 2, 3, 3)},
        "kernel_shape=[5, 5]",
    ),
    "too few strides": ([node("Conv", ["x", "w"], strides=[2])], IMAGE, {"w": normal(3, 2, 3, 3)}, "strides=[2];"),
    "a stride of zero": ([node("Conv", ["x", "w"], strides=[0, 1])], IMAGE, {"w": normal(3, 2, 3, 3)}, "strides=[0"),
    "no groups": ([node("Conv", ["x", "w"], group=0)], IMAGE, {"w": normal(3, 2, 3, 3)}, "is damaged"),
    "padding stated twice": (
        [node("MaxPool", ["x"], kernel_shape=[2, 2], auto_pad="VALID", pads=[1, 1, 1, 1])], IMAGE, {}, "exclude each",
    ),
    "a dimension added twice": ([node("Unsqueeze", ["x", "a"])], LINE, {"a": ints(1, -3)}, "twice"),
    "an axis sliced twice": (
        [node("Slice", ["x", "s", "e", "a"])], LINE, {"s": ints(1, 1), "e": ints(5, 5), "a": ints(1, 1)}, "twice",
    ),
    "slices of different lengths": (
        [node("Slice", ["x", "s", "e", "a"])], IMAGE, {"s": ints(0), "e": ints(2), "a": ints(1, 2)}, "of different",
    ),
    "a limit per neuron": ([node("Clip", ["x", "l"])], LINE, {"l": normal(6)}, "one number for all"),
    "a bias of another size": ([node("Gemm", ["x", "w", "b"])], LINE, {"w": normal(6, 3), "b": normal(2)}, "damaged"),
    "a weight that is no matrix": ([node("Gemm", ["x", "w"])], LINE, {"w": normal(6, 3, 1)}, "[6, 3, 1]"),
    "a product that adds a dimension": ([node("MatMul", ["x", "w"])], LINE, {"w": normal(1, 6, 3)}, "[1, 6, 3]"),
    "a negative variance": (
        [node("BatchNormalization", ["x", "s", "s", "s", "v"])], LINE, {"s": np.ones(6), "v": -np.ones(6)}, "finite",
    ),
    "noise": ([node("RandomNormalLike", ["x"])], LINE, {}, "not supported"),
}  # fmt: skip

OLD = {
    "values aligned by an axis": (
        [node("Add", ["x", "c"], broadcast=1, axis=1)], IMAGE, {"c": normal(2)}, 6, "attribute axis",
    ),
    "statistics of the batch": (
        [node("BatchNormalization", ["x", "s", "s", "s", "s"])], LINE, {"s": np.ones(6)}, 6, "training mode",
    ),
    "statistics of every pixel": (
        [node("BatchNormalization", ["x", "s", "s", "s", "s"], spatial=0)], LINE, {"s": np.ones(6)}, 7, "spatial=0",
    ),
    "outputs of training": (
        [node("BatchNormalization", ["x", "s", "s", "s", "s"], ["y", "m", "v", "a", "b"])],
        LINE, {"s": np.ones(6)}, 9, "training mode",
    ),
    "neurons dropped": ([node("Dropout", ["x"])], LINE, {}, 6, "training mode"),
    "parts of different lengths": ([node("Split", ["x"], list("yabc"), axis=1)], LINE, {}, 13, "4 equal parts"),
}  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_what_older_versions_mean_by_an_operator_is_not_read_as_the_newer_meaning(name, tmp_path):
    nodes, shape, constants, opset, message = OLD[name]
    with pytest.raises(UnsupportedLayerError, match=message):
        load_onnx(save(tmp_path, model(nodes, shape, constants, opset=opset)))


def test_values_that_are_drawn_are_no_constants(tmp_path):
    nodes = [node("RandomNormal", [], "n", shape=[1, 6]), node("Add", ["x", "n"])]
    with pytest.raises(UnsupportedLayerError, match=r"RandomNormal .* draws another value"):
        load_onnx(save(tmp_path, model(nodes, LINE)))


def test_branches_of_different_ranks_are_not_added_across_the_batch(tmp_path):
    # With a batch of one [1, 2] + [1, 2, 2] is defined; a larger batch would meet the wrong dimension.
    nodes = [node("Flatten", ["x"], "f"), node("Slice", ["f", "zero", "two", "one"], "h"), node("Add", ["x", "h"])]
    constants = {"zero": ints(0), "two": ints(2), "one": ints(1)}
    with pytest.raises(UnsupportedLayerError, match="different numbers of dimensions"):
        load_onnx(save(tmp_path, model(nodes, [1, 2, 2], constants)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (nn.LeakyReLU(0.001), "values that differ"),
        (nn.AdaptiveAvgPool1d(1), r"the shape \[1, 2, 6\], not \[1, 2, 1\]"),
        (Flipped(), "mixes the examples"),
    ],
)
def test_a_module_that_differs_from_the_reference_evaluator_is_never_taken(wrong, message, tmp_path, monkeypatch):
    monkeypatch.setitem(OPERATORS, "Relu", lambda call: wrong)
    with pytest.raises(UnsupportedLayerError, match=message):
        load_onnx(save(tmp_path, model([node("Relu", ["x"])], [1, 2, 6])))


def test_an_evaluator_that_fails_names_the_file(tmp_path):
    path = save(tmp_path, model([node("Gather", ["x", "i"], axis=1)], LINE, {"i": ints(6)}))
    with pytest.raises(OnnxFileError, match=r"net\.onnx: onnx's reference evaluator fails: IndexError"):
        read_onnx(path).evaluate(np.zeros(6))


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_operator_that_cannot_be_bounded_is_named(name, tmp_path):
    nodes, shape, constants, message = UNSUPPORTED[name]
    path = save(tmp_path, model(nodes, shape, constants))
    with pytest.raises(UnsupportedLayerError) as error:
        load_onnx(path)
    text = str(error.value)
    assert message in text
    assert str(path) in text
    assert f"operator {nodes[-1].op_type} (node '{nodes[-1].name}')" in text
    assert f"{shape}" in text


def test_an_operator_of_another_domain_is_named_with_it(tmp_path):
    custom = helper.make_node("Relu", ["x"], ["y"], name="own", domain="com.example")
    proto = model([custom], LINE)
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(UnsupportedLayerError, match=r"com\.example\.Relu \(node 'own'\)"):
        load_onnx(save(tmp_path, proto))


def test_operators_of_a_version_that_onnx_does_not_know_are_refused(tmp_path):
    known = onnx.defs.onnx_opset_version()
    with pytest.raises(OnnxFileError, match=rf"version {known + 1}, the installed onnx knows .* {known};"):
        load_onnx(save(tmp_path, model([node("Relu", ["x"])], LINE, opset=known + 1)))
    assert load_onnx(save(tmp_path, model([node("Relu", ["x"])], LINE, opset=known))).output_shape == (6,)


def test_the_indices_of_a_pool_are_refused_where_they_are_read(tmp_path):
    pool = node("MaxPool", ["x"], ["p", "indices"], kernel_shape=[2, 2])
    with pytest.raises(UnsupportedLayerError, match="'indices', an output that its operator does not give"):
        load_onnx(save(tmp_path, model([pool, node("Cast", ["indices"], to=TensorProto.FLOAT)], IMAGE)))


def test_a_file_that_is_not_there_or_damaged_is_named(tmp_path):
    with pytest.raises(OnnxFileError, match=r"missing\.onnx: no such file"):
        load_onnx(tmp_path / "missing.onnx")
    with pytest.raises(OnnxFileError, match="cannot be read"):
        load_onnx(tmp_path)
    whole = model([node("MatMul", ["x", "w"])], LINE, {"w": normal(6, 3)}).SerializeToString()
    for kept in range(0, len(whole), 5):
        path = tmp_path / "cut.onnx"
        path.write_bytes(whole[:kept])
        with pytest.raises(OnnxFileError, match=r"cut\.onnx"):
            load_onnx(path)
    (tmp_path / "cut.onnx.gz").write_bytes(gzip.compress(whole)[:-20])
    with pytest.raises(OnnxFileError, match=r"cut\.onnx\.gz: cannot be read"):
        load_onnx(tmp_path / "cut.onnx.gz")
    (tmp_path / "whole.onnx.gz").write_bytes(gzip.compress(whole))
    assert load_onnx(tmp_path / "whole.onnx.gz").output_shape == (3,)


def test_a_stored_tensor_with_too_few_bytes_is_damaged(tmp_path):
    proto = model([node("MatMul", ["x", "w"])], LINE, {"w": normal(6, 3)})
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]
    with pytest.raises(OnnxFileError, match=r"net\.onnx"):
        load_onnx(save(tmp_path, proto))


def test_tensors_in_other_files_are_not_looked_for_around_a_packed_one(tmp_path, monkeypatch):
    proto = model([node("MatMul", ["x", "w"])], LINE, {"w": normal(6, 3)})
    beside = tmp_path / "net"
    beside.mkdir()
    options = {"save_as_external_data": True, "location": "weights", "size_threshold": 0}
    onnx.save(proto, beside / "net.onnx", **options)
    expected = load_onnx(beside / "net.onnx")
    (beside / "net.onnx.gz").write_bytes(gzip.compress((beside / "net.onnx").read_bytes()))
    # Other numbers under the same name, where the process happens to be.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "weights").write_bytes(normal(6, 3, seed=1).astype(np.float32).tobytes())
    monkeypatch.chdir(elsewhere)
    with pytest.raises(OnnxFileError, match=r"net\.onnx\.gz: the tensor 'w' is stored in another file"):
        load_onnx(beside / "net.onnx.gz")
    assert np.array_equal(
        load_onnx(beside / "net.onnx").the_MatMul.weight.detach(), expected.the_MatMul.weight.detach()
    )


@pytest.mark.parametrize("branch", [False, True])
def test_a_packed_file_may_not_refer_to_others_in_attributes_either(branch, tmp_path, monkeypatch):
    tensor = onnx.numpy_helper.from_array(normal(6, 3).astype(np.float32), "inner")
    onnx.external_data_helper.set_external_data(tensor, "weights")
    (tmp_path / "weights").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    made = node("Constant", [], "w", value=tensor)
    if branch:
        inner = helper.make_graph([made], "inner", [], [helper.make_tensor_value_info("w", TensorProto.FLOAT, [6, 3])])
        made = node("If", ["yes"], "w", then_branch=inner, else_branch=inner)
    whole = model([made, node("MatMul", ["x", "w"])], LINE, {"yes": np.array(True)}).SerializeToString()
    (tmp_path / "net.onnx.gz").write_bytes(gzip.compress(whole))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OnnxFileError, match=r"net\.onnx\.gz: the tensor 'inner' is stored in another file"):
        load_onnx(tmp_path / "net.onnx.gz")


BEYOND = 1 + 2.0**-30
"""A number of DOUBLE that FLOAT does not hold."""

NORM = node("BatchNormalization", ["x", "s", "b", "m", "v"])
MIXED = {
    "statistics": ([NORM], {"s": np.array([2.0**30]), "b": np.zeros(1)}, {"m": [BEYOND], "v": [1.0]}, "'m'"),
    "a variance": ([NORM], {"s": np.ones(1), "b": np.zeros(1)}, {"m": [1.0], "v": [BEYOND]}, "'v'"),
    "a limit": ([node("Clip", ["x", "", "h"])], {}, {"h": BEYOND}, "'h'"),
    "a lower limit above the largest": ([node("Clip", ["x", "l"])], {}, {"l": 1e39}, "'l'"),
    "a slope": ([node("PRelu", ["x", "a"])], {}, {"a": [0.1]}, "'a'"),
    "a weight": ([node("MatMul", ["x", "w"])], {}, {"w": [[0.1]]}, "'w'"),
    "a summand": ([node("Add", ["x", "c"])], {}, {"c": [0.1]}, "'c'"),
    "a number beyond the largest": ([node("Add", ["x", "c"])], {}, {"c": [1e39]}, "'c'"),
    "a value of the padding": ([node("Pad", ["x", "p", "z"])], {"p": ints(0, 1, 0, 0)}, {"z": 1e-60}, "'z'"),
}


@pytest.mark.parametrize("name", MIXED)
def test_constants_that_the_format_of_the_network_does_not_hold_are_refused(name, tmp_path):
    nodes, constants, doubles, constant = MIXED[name]
    path = save(tmp_path, model(nodes, [1, 1], constants, doubles=doubles, opset=15))
    message = (
        rf"operator {nodes[0].op_type} \(node '{nodes[0].name}'\).* {constant} of type float64, "
        r"of which float32, .*, does not hold 1 of 1 numbers exactly; .*DOUBLE"
    )
    with pytest.raises(UnsupportedLayerError, match=message):
        load_onnx(path)


def test_constants_of_another_type_that_the_format_of_the_network_holds_are_those_numbers(tmp_path):
    single = {"s": np.array([2.0**30]), "b": np.zeros(1)}
    file = model([NORM], [1, 1], single, doubles={"m": [1.5], "v": [4.0]}, opset=15)
    (layer,) = load_onnx(save(tmp_path, file)).children()
    assert {tensor.dtype for tensor in layer.state_dict().values() if tensor.is_floating_point()} == {torch.float32}
    assert (layer.running_mean.item(), layer.running_var.item()) == (1.5, 4.0)
    file = model([node("Clip", ["x", "l", "h"])], [1, 1], doubles={"l": -math.inf, "h": 0.5})
    assert load_onnx(save(tmp_path, file))(torch.tensor([[7.0]])) == 0.5


def test_limits_of_another_type_that_no_number_of_the_network_reaches_are_none(tmp_path):
    largest = np.finfo(np.float64).max
    file = model([node("Clip", ["x", "l", "h"])], [1, 1], doubles={"l": 0.0, "h": largest})
    (layer,) = load_onnx(save(tmp_path, file)).children()
    assert isinstance(layer, torch.nn.ReLU)
    file = model([node("Clip", ["x", "l", "h"])], [1, 1], doubles={"l": -1e39, "h": 0.5})
    (layer,) = load_onnx(save(tmp_path, file)).children()
    assert (layer.min_val, layer.max_val) == (-math.inf, 0.5)


@pytest.mark.parametrize(
    ("element", "to", "message"),
    [
        (TensorProto.FLOAT, TensorProto.DOUBLE, "in float32 to float64"),
        (TensorProto.DOUBLE, TensorProto.FLOAT, "in float64 to float32"),
    ],
)
def test_a_network_of_two_formats_is_refused(element, to, message, tmp_path):
    with pytest.raises(UnsupportedLayerError, match=f"Cast .*converts values of a network {message}"):
        load_onnx(save(tmp_path, model([node("Cast", ["x"], to=to)], LINE, element=element)))


def test_a_limit_of_whole_numbers_is_none_of_a_network_in_float(tmp_path):
    path = save(tmp_path, model([node("Clip", ["x", "", "h"])], LINE, {"h": np.array(2**24 + 1)}))
    with pytest.raises(UnsupportedLayerError, match="'h' of type int64; float is expected"):
        load_onnx(path)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([6], "expected a batch dimension"),
        ([2, 6], "must be the batch"),
        (["batch", "length"], "every dimension but the batch must be fixed"),
        (None, "shape"),
    ],
)
def test_an_input_of_another_shape_is_refused(shape, message, tmp_path):
    with pytest.raises(OnnxFileError, match=message):
        load_onnx(save(tmp_path, model([node("Relu", ["x"])], shape)))


def test_a_free_batch_is_read(tmp_path):
    for batch in ("N", None, 0):
        assert load_onnx(save(tmp_path, model([node("Relu", ["x"])], [batch, 6]))).input_shape == (6,)


def test_other_inputs_and_outputs_are_refused(tmp_path):
    whole = model([node("Relu", ["x"])], LINE, element=TensorProto.INT32)
    with pytest.raises(OnnxFileError, match="INT32"):
        load_onnx(save(tmp_path, whole))
    two = model([node("Add", ["x", "z"])], LINE)
    two.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, LINE))
    with pytest.raises(OnnxFileError, match=r"one input are supported, this one has 2 \('x', 'z'\)"):
        load_onnx(save(tmp_path, two))
    constant = model([node("Relu", ["c"])], LINE, {"c": normal(6)})
    with pytest.raises(OnnxFileError, match="does not depend on the input"):
        load_onnx(save(tmp_path, constant))


def test_stored_tensors_may_be_listed_among_the_inputs_as_old_files_do(tmp_path):
    proto = model([node("MatMul", ["x", "w"])], LINE, {"w": normal(6, 3)})
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [6, 3]))
    proto.ir_version = 3
    assert load_onnx(save(tmp_path, proto)).output_shape == (3,)
    onnx.checker.check_model(proto)


def test_without_the_package_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"pip install 'lbp\[onnx\]'"):
        load_onnx(tmp_path / "net.onnx")
