"""What operations allocate on their way to a result."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Largest(TorchDispatchMode):
    """While it is entered: the largest number of elements that an operation returned in memory of its own."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        found = function(*arguments, **(keywords or {}))
        given = {part.data_ptr() for part in arguments if isinstance(part, torch.Tensor)}
        for part in found if isinstance(found, tuple | list) else [found]:
            if isinstance(part, torch.Tensor) and part.data_ptr() not in given:
                self.elements = max(self.elements, part.numel())
        return found
