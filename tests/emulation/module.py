"""What the emulated ops have in common."""


class Emulated:
    """Ops on a module of emulated launch functions.

    Attributes:
        module: the module.
        split: whether float32 products are those of tensor cores with split operands.
    """

    def __init__(self, module, split=False):
        self.module, self.split = module, split
