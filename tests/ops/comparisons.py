"""The tests of a module that compare an op with the float64 reference, for other places where the op may run."""


def comparisons(module):
    """Return these tests under names of their own, so that several modules' stand side by side."""
    prefix = f"test_{module.__name__.rpartition('test_')[2]}"
    return {
        f"{prefix}_{name.removeprefix('test_')}": function
        for name, function in vars(module).items()
        if name.startswith("test_") and "assert_matches_reference" in function.__code__.co_names
    }
