"""One training step: loss, gradient, update, with everything left on the device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from lbp.checks import trusted_values
from lbp.nn import R_MIN, LeakyReLU, ParamRamp
from lbp.precision import free_convolutions, full_precision
from lbp.training.batches import seed_for
from lbp.training.capture import CapturedSteps, CudaGraphs
from lbp.training.distributed import World
from lbp.training.objective import Objective, Parts
from lbp.training.schedules import Controls
from lbp.training.settings import TrainingSettings
from lbp.training.warm_up import param_ramps


class TrainingStep:
    """Updates a network by one batch at a time, in place.

    Nothing inside a step waits for the device. A step whose loss or gradient is not finite changes no weight, and
    neither does any step after it, so that the weights that failed can be looked at when the report has been read.

    On a GPU, steps of the same kind and batch size are captured as a CUDA graph once a few have run one by one, and
    replayed from then on; with several processes every step runs one by one.

    Args:
        model: network to logits, in training mode, on the device of the world.
        example: an input [1, *shape].
        num_classes: of the data.
        settings: of the training.
        world: the processes that train together.
        capture: whether to capture steps on a GPU.

    Attributes:
        optimizer: Adam over all parameters.
        captured: runs steps from recordings; None where every step runs for itself.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Tensor,
        num_classes: int,
        settings: TrainingSettings,
        world: World | None = None,
        *,
        capture: bool = True,
    ) -> None:
        self._world = world or World(device=example.device)
        self._settings = settings
        self._parameters = list(model.parameters())
        self._slopes = [module for module in model.modules() if isinstance(module, ParamRamp | LeakyReLU)]
        # Tracing gives lazy modules their shape.
        self.objective = Objective(model, example, num_classes, settings, self._world)
        self._noise = _RampNoise(model, settings)
        self._module: nn.Module = self.objective
        device, on_gpu = self._world.device, self._world.device.type == "cuda"
        self.optimizer = torch.optim.Adam(
            self._parameters,
            lr=torch.tensor(settings.lr, device=device, dtype=torch.float32) if on_gpu else settings.lr,
            fused=True,
            capturable=on_gpu,
        )
        # Fused Adam skips the update where this is 1; it reads float32, whatever the default is.
        self._failed = torch.zeros((), device=device, dtype=torch.float32)
        self.optimizer.found_inf = self._failed  # type: ignore[attr-defined]
        self._weights = torch.zeros(4, device=device)
        captures = on_gpu and capture and self._world.size == 1
        self.captured = CapturedSteps(self.update, CudaGraphs()) if captures else None
        self.start_phase()

    def start_phase(self) -> None:
        """Takes note of a change that the kind of step does not show, such as the end of the warm-up."""
        if self.captured is not None:
            self.captured.forget()
        if self._world.size > 1:
            # Which parameters take part differs between the phases (r does not, in the warm-up), hence the search.
            self._module = DistributedDataParallel(self.objective, broadcast_buffers=False, find_unused_parameters=True)

    def __call__(self, images: Tensor, labels: Tensor, controls: Controls, step: int) -> Tensor:
        """Runs one step.

        Args:
            images: [B, *shape] of the whole batch; a process takes its own part.
            labels: int64 [B].
            controls: what the schedules say.
            step: number of the step in the whole training, from which random numbers are drawn.

        Returns:
            [4] on the device: sums over the batch of the loss, of misclassified examples and of those not verified by
            the bounds, and whether this or an earlier step has failed (1, else 0).
        """
        self._set(controls, step)
        share = 1.0
        if self._world.size > 1:
            share = len(self._world.part(labels)) * self._world.size / len(labels)
            images, labels = self._world.part(images), self._world.part(labels)
        parts = Parts.of(controls)
        if self.captured is not None:
            return self.captured(images, labels, parts)
        return self.update(images, labels, parts, share)

    def _set(self, controls: Controls, step: int) -> None:
        values = (controls.eps, controls.kappa, controls.beta, controls.regularization)
        self._weights.copy_(_pinned_if(torch.tensor(values, device="cpu"), self._weights), non_blocking=True)
        if controls.eta is not None:
            for module in self._slopes:
                module.set_eta(controls.eta)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(controls.lr)
            else:
                group["lr"] = controls.lr
        self._noise.draw(step)

    def update(self, images: Tensor, labels: Tensor, parts: Parts, share: float = 1.0) -> Tensor:
        """Updates the network by this process's examples, under the controls set last; reads nothing on the host.

        Args:
            images: [B, *shape].
            labels: int64 [B].
            parts: of the loss.
            share: as `Objective` takes it.

        Returns:
            as calling the step.
        """
        with free_convolutions(), full_precision(), trusted_values():
            self.optimizer.zero_grad(set_to_none=True)
            with self._noise.added():
                loss, report = self._module(images, labels, self._weights, parts, share)
                loss.backward()
            report = self._world.sum(report)
            gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
            norm = get_total_norm(gradients, foreach=True)
            good = torch.isfinite(norm) & torch.isfinite(report[0])
            self._failed.copy_(torch.maximum(self._failed, (~good).to(self._failed.dtype)))
            if self._settings.gradient_clip is not None:
                clip_grads_with_norm_(self._parameters, self._settings.gradient_clip, norm, foreach=True)
            self.optimizer.step()
        return torch.cat([report, self._failed.to(report.dtype).reshape(1)])


class _RampNoise:
    """Gaussian noise on the bending points, the same in the clean pass and in the bounds of a step.

    Lyu et al. 2021 counter overfitting at small radii by it. It is added to the effective r for the length of forward
    and backward pass, after which r is what it was; the gradient is that at the moved points.
    """

    def __init__(self, model: nn.Module, settings: TrainingSettings) -> None:
        self._share, self._seed = settings.r_noise, settings.seed
        self._ramps = [ramp for _, ramp in param_ramps(model)] if self._share else []
        self._drawn = [torch.zeros_like(module.r) for module in self._ramps]
        device = self._drawn[0].device if self._drawn else torch.device("cpu")
        self._generator = torch.Generator(device)

    def draw(self, step: int) -> None:
        """Draws standard normal numbers for a step; on every process the same."""
        self._generator.manual_seed(seed_for(self._seed, "noise", step))
        for drawn in self._drawn:
            drawn.normal_(generator=self._generator)

    @contextmanager
    def added(self) -> Iterator[None]:
        """Adds the noise inside the block, unless the ramps are in their warm-up."""
        active = [pair for pair in zip(self._ramps, self._drawn, strict=True) if not pair[0].warm_up]
        if not active:
            yield
            return
        kept = [module.r.detach().clone() for module, _ in active]
        with torch.no_grad():
            for module, drawn in active:
                # As in the paper's code, centre and mean are those of the points that a pass without noise uses.
                r = module.r.clamp(min=R_MIN)
                module.r.copy_(r + drawn * (self._share * r.mean()))
        try:
            yield
        finally:
            with torch.no_grad():
                for (module, _), r in zip(active, kept, strict=True):
                    module.r.copy_(r)


def _pinned_if(values: Tensor, target: Tensor) -> Tensor:
    """Return host values in memory from which a copy to the target does not wait."""
    return values.pin_memory() if target.device.type == "cuda" else values
