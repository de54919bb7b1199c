"""What the CPU's tests say of layouts, of addresses, and of numbers at the edges, on the device."""

import pytest
from ops import test_activation, test_affine, test_alignment, test_concretize, test_relax, test_windows

# Tests that make their tensors where a test does by default, and tests that leave that to `ops.cases.evaluate`.
BY_DEFAULT = (
    (test_activation, "strided_and_expanded_inputs_have_the_values_of_their_copies"),
    (test_affine, "channels_last_weights_and_images_change_nothing"),
    (test_affine, "layouts_of_coefficients_do_not_matter"),
    (test_affine, "nan_reaches_the_interval_through_a_linear_layer"),
    (test_alignment, "results_do_not_depend_on_where_a_tensor_begins"),
    (test_concretize, "layouts_of_coefficients_do_not_matter"),
    (test_concretize, "no_point_of_the_ball_leaves_the_bounds_and_one_attains_them"),
    (test_relax, "layouts_of_coefficients_do_not_matter"),
    (test_relax, "relax_forward_takes_the_bounds_of_one_image_for_the_batch"),
    (test_windows, "a_coefficient_that_is_no_number_is_not_skipped"),
    (test_windows, "a_weight_that_is_no_number_reaches_rows_of_zeros"),
    (test_windows, "layouts_of_windows_do_not_matter"),
)
EVALUATED = (
    (test_concretize, "corners_out_of_order_by_rounding_are_swapped"),
    (test_concretize, "gradient_of_a_row_of_zeros_is_the_center"),
    (test_concretize, "gradient_of_a_tiny_row_is_a_unit_vector_of_the_other_norm"),
    (test_concretize, "norms_of_tiny_rows_do_not_underflow"),
)


def named(module, statement):
    """The name here, as several modules have tests of one name."""
    return f"test_{module.__name__.rpartition('test_')[2]}_{statement}"


class TestOnTheDeviceByDefault:
    pytestmark = pytest.mark.usefixtures("cuda_by_default")


class TestEvaluatedOnTheDevice:
    pytestmark = pytest.mark.usefixtures("native_on_cuda")


for place, tests in ((TestOnTheDeviceByDefault, BY_DEFAULT), (TestEvaluatedOnTheDevice, EVALUATED)):
    for module, statement in tests:
        setattr(place, named(module, statement), staticmethod(getattr(module, f"test_{statement}")))
