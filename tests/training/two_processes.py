"""What each process of `test_distributed.py` does, started by torchrun: `python two_processes.py FOLDER`."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from lbp import BoundedModule
from lbp.data import Dataset
from lbp.nn import ParamRamp
from lbp.training import (
    Controls,
    StepRecord,
    Trainer,
    TrainingDivergedError,
    TrainingSettings,
    TrainingStep,
    World,
    joined_world,
    mean_activations,
    read_settings,
    run,
)
from lbp.training.distributed import global_batch_norm
from lbp.training.selection import held_out_errors

CONTROLS = Controls(certified=True, eps=0.02, kappa=0.25, beta=0.5, regularization=0.5, eta=0.1, lr=1e-3)


def network() -> nn.Sequential:
    """A network with batch normalisation."""
    torch.manual_seed(0)
    # A bias before batch normalisation has gradient 0 but for rounding, which nothing could be compared with.
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), ParamRamp((6, 6, 6), 0.1, 0.3), nn.Flatten(),
        nn.Linear(216, 12, bias=False), nn.BatchNorm1d(12), ParamRamp(12, 0.1, 0.3), nn.Linear(12, 10),
    )  # fmt: skip


def one_step(world: World) -> dict[str, torch.Tensor]:
    """A step of a network with batch normalisation on eleven examples: its report, gradients and running statistics."""
    model = network()
    images, labels = torch.rand(11, 1, 8, 8), torch.randint(10, (11,))
    settings = TrainingSettings(loss="crown-ibp", eps=0.02, epochs=1, r_noise=0.01, gradient_clip=1000.0)
    with global_batch_norm(model, world):
        step = TrainingStep(model, images[:1], 10, settings, world)
        report = step(images, labels, CONTROLS, 0)
    gradients = {f"gradient of {name}": value.grad for name, value in model.named_parameters()}
    statistics = {name: value for name, value in model.named_buffers() if "running" in name}
    return {"report": report, **gradients, **statistics}


def held_out(world: World, count: int) -> list[float]:
    """Errors of the network on so many examples, and how many of them are this process's share."""
    model = network()
    images = torch.rand(count, 1, 8, 8)
    labels = model.eval()(images).argmax(1)
    labels[::3] = (labels[::3] + 1) % 10
    data = Dataset("random", images, labels, 10)
    share = world.share_of(data)
    settings = TrainingSettings(eps=1e-6, epochs=1)
    errors = held_out_errors(BoundedModule(model, data.images[:1]), model, share, settings, world)
    return [*errors, len(share)]


def means(world: World, count: int) -> tuple[list[float], int]:
    """Mean activations of the hidden layer over so many images, and how many images this process looked at."""
    model, seen = network(), []
    images = torch.rand(count, 1, 8, 8)
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    found = mean_activations(model, images, batch_size=2, world=world)
    return found["6"].tolist(), sum(seen)


def an_epoch_that_diverges(world: World) -> str:
    """What a training with warm-up regularisers says after the weights of a layer have become huge."""
    model = network()
    data = Dataset("random", torch.rand(12, 1, 8, 8), torch.randint(10, (12,)), 10)

    def poison(record: StepRecord) -> None:
        with torch.no_grad():
            model[0].weight.fill_(3e38)

    with global_batch_norm(model, world):
        settings = TrainingSettings(eps=0.02, epochs=1, batch_size=6, ramp_epochs=1, regularization=0.5)
        try:
            Trainer(model, data, settings, world=world).run_epoch(poison)
        except TrainingDivergedError as error:
            return str(error)
    return "no error"


def main(folder: Path) -> None:
    """Trains a network as `lbp train` does, then writes what one step gives."""
    torch.set_num_threads(1)
    with joined_world(torch.device("cpu")) as world:
        trained = run(read_settings(folder / "net.toml"), world=world, state=folder / "state")
        if world.leads:
            trained.save(folder / "net.safetensors")
        torch.save(one_step(world), folder / f"step-{world.rank}.pt")
        found = {
            "held out": [held_out(world, count) for count in (7, 1)],
            "means": [means(world, count) for count in (7, 1)],
            "diverged": an_epoch_that_diverges(world),
        }
    found["threads"] = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    (folder / f"found-{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
