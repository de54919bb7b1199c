"""What the emulated ops have in common."""


class Emulated:
    """Ops on a module of emulated launch functions; `split`: products on tensor cores."""

    def __init__(self, module, split=False):
        self.module, self._split = module, split
