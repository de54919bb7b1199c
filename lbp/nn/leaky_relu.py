"""LeakyReLU whose slope is a buffer, so that a schedule can move it."""

from typing import Any

import torch
from torch import Tensor, nn

from lbp.nn.param_ramp import checked_eta, eta_complaints
from lbp.ops import ramp


class LeakyReLU(nn.Module):
    """`eta z` below 0, `z` above; ReLU is eta = 0.

    Unlike `nn.LeakyReLU` the slope belongs to the state dict: Lyu et al. 2021 train with a slope that falls to 0, and
    a checkpoint holds the slope that its bounds were computed with.

    Args:
        eta: slope left of 0, in [0, 1]; a 0-dim buffer, which `set_eta` changes.
        device, dtype: of the buffer.

    Raises:
        InvalidInputError: `eta` outside [0, 1].
    """

    eta: Tensor

    def __init__(
        self, eta: float = 0.0, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        kind = dtype or torch.get_default_dtype()
        self.register_buffer("eta", torch.tensor(checked_eta(eta), device=device, dtype=kind))

    def effective_eta(self) -> Tensor:
        """Slope left of 0, a 0-dim tensor."""
        return self.eta

    @torch.no_grad()
    def set_eta(self, eta: float) -> None:
        """Sets the slope in place, for schedules.

        Raises:
            InvalidInputError: `eta` outside [0, 1].
        """
        self.eta.fill_(checked_eta(eta))

    def forward(self, z: Tensor) -> Tensor:
        """Applies the activation to z [B, *shape]."""
        return ramp(z, eta=self.eta)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *further: Any) -> None:
        *_, error_msgs = further
        error_msgs += eta_complaints(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *further)

    def extra_repr(self) -> str:
        """The slope."""
        return f"eta={self.eta.item():g}"
