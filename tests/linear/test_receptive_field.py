"""The receptive field of a neuron holds every input that it depends on, and is no larger than the geometry says."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lbp.linear import ReceptiveField, Span

pairs = {name: st.tuples(*[st.integers(*ends)] * 2) for name, ends in {"few": (1, 3), "some": (0, 2)}.items()}
kernels = st.fixed_dictionaries(
    {"kernel": pairs["few"], "stride": pairs["few"], "padding": pairs["some"], "dilation": pairs["few"]}
)


def read_by(stack, size, place):
    """The inputs [h, w] that a neuron of a stack of convolutions of ones depends on, and the size of its layer."""
    x = torch.ones(1, 1, *size, dtype=torch.float64, requires_grad=True)
    z = x
    for layer in stack:
        options = {key: layer[key] for key in ("stride", "padding", "dilation")}
        reach = [layer["dilation"][i] * (layer["kernel"][i] - 1) + 1 for i in range(2)]
        if any(z.shape[2 + i] + 2 * layer["padding"][i] < reach[i] for i in range(2)):
            return None
        z = F.conv2d(z, torch.ones(1, 1, *layer["kernel"], dtype=torch.float64), **options)
    row, column = (place[i] % z.shape[2 + i] for i in range(2))
    return torch.autograd.grad(z[0, 0, row, column], x)[0][0, 0] != 0, (row, column), tuple(z.shape[2:])


def composed(stack):
    field = ReceptiveField.identity()
    for layer in reversed(stack):
        field = field.then(ReceptiveField.of_kernel(layer["kernel"], **{k: layer[k] for k in layer if k != "kernel"}))
    return field


@settings(max_examples=150, deadline=None)
@given(st.lists(kernels, max_size=3), st.tuples(*[st.integers(1, 17)] * 2), st.tuples(*[st.integers(0, 16)] * 2))
def test_the_field_of_a_stack_holds_what_a_neuron_reads(stack, size, place):
    found = read_by(stack, size, place)
    if found is None:
        return
    read, where, layer = found
    field = composed(stack)
    (top, left), (height, width) = field.origin(*where), field.size
    inside = torch.zeros_like(read)
    inside[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = True
    assert not (read & ~inside).any()
    if field.covers(layer, size):
        assert inside.all()


@given(st.integers(1, 3), st.integers(-4, 4), st.integers(1, 9), st.integers(-4, 4), st.integers(1, 9))
def test_the_union_of_branches_is_the_hull(scale, first, first_size, second, second_size):
    a, b = Span(scale, first, first_size), Span(scale, second, second_size)
    union = a.union(b)
    read = {*range(first, first + first_size), *range(second, second + second_size)}
    assert (union.offset, union.offset + union.size - 1) == (min(read), max(read))
    assert union == b.union(a)


def test_branches_that_move_at_different_speeds_read_the_whole_layer():
    one = ReceptiveField.of_kernel((3, 3), padding=(1, 1))
    two = ReceptiveField.of_kernel((3, 3), padding=(1, 1), stride=(1, 2))
    assert one.union(two) is None
    assert one.union(None) is None


def test_a_window_covers_a_layer_only_from_every_position():
    field = ReceptiveField.of_kernel((5, 5), padding=(2, 2))
    assert field.covers((1, 1), (3, 3))
    assert not field.covers((2, 1), (4, 3))
    assert field.covers((3, 3), (3, 3))
    assert not field.covers((4, 4), (4, 4))
