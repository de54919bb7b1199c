"""The module of emulated kernels loads beside the package."""


def test_the_module_takes_a_seed(emulated):
    emulated.set_seed(1)
    emulated.set_seed(0)
