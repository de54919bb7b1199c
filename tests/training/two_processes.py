"""What each process of `test_distributed.py` does, started by torchrun: `python two_processes.py FOLDER`."""

import sys
from pathlib import Path

import torch
from torch import nn

from lbp.nn import ParamRamp
from lbp.training import Controls, TrainingSettings, TrainingStep, World, joined_world, read_settings, run
from lbp.training.distributed import global_batch_norm

CONTROLS = Controls(certified=True, eps=0.02, kappa=0.25, beta=0.5, regularization=0.5, eta=0.1, lr=1e-3)


def one_step(world: World) -> dict[str, torch.Tensor]:
    """A step of a network with batch normalisation on eleven examples: its report, gradients and running statistics."""
    torch.manual_seed(0)
    # A bias before batch normalisation has gradient 0 but for rounding, which nothing could be compared with.
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), ParamRamp((6, 6, 6), 0.1, 0.3), nn.Flatten(),
        nn.Linear(216, 12, bias=False), nn.BatchNorm1d(12), ParamRamp(12, 0.1, 0.3), nn.Linear(12, 10),
    )  # fmt: skip
    images, labels = torch.rand(11, 1, 8, 8), torch.randint(10, (11,))
    settings = TrainingSettings(loss="crown-ibp", eps=0.02, epochs=1, r_noise=0.01, gradient_clip=1000.0)
    with global_batch_norm(model, world):
        step = TrainingStep(model, images[:1], 10, settings, world)
        report = step(images, labels, CONTROLS, 0)
    gradients = {f"gradient of {name}": value.grad for name, value in model.named_parameters()}
    statistics = {name: value for name, value in model.named_buffers() if "running" in name}
    return {"report": report, **gradients, **statistics}


def main(folder: Path) -> None:
    """Trains a network as `lbp train` does, then writes what one step gives."""
    torch.set_num_threads(1)
    with joined_world(torch.device("cpu")) as world:
        trained = run(read_settings(folder / "net.toml"), world=world, state=folder / "state")
        if world.leads:
            trained.save(folder / "net.safetensors")
        torch.save(one_step(world), folder / f"step-{world.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
