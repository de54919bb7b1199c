"""`lbp train`."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Annotated

import typer

from lbp import checkpoint
from lbp.commands.console import TrainingProgress, progress_bars, say, told_to_resume, warn
from lbp.commands.options import DataRoot, Device, chosen_device, prepare_files, prepare_folder
from lbp.errors import LbpError, OutputError
from lbp.files import only_writer, remove_leftovers
from lbp.training import (
    EpochRecord,
    Run,
    RunSettings,
    StateError,
    StepRecord,
    World,
    joined_world,
    read_settings,
    run,
)
from lbp.training.tensorboard import TensorBoardLog


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Settings: tables data, model and training.")],
    data_root: DataRoot = None,
    output: Annotated[Path | None, typer.Option(help="Checkpoint; by default CONFIG.safetensors.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Use another setting than the file's: training.seed=3, ..."),
    ] = None,
    device: Device = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an unfinished run where it stopped; without one, start it.")
    ] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw an unfinished run away.")] = False,
    graphs: Annotated[bool, typer.Option("--graphs/--no-graphs", help="Capture steps as CUDA graphs on a GPU.")] = True,
    tensorboard: Annotated[Path | None, typer.Option(help="Also write a TensorBoard log into this folder.")] = None,
) -> None:
    """Train a network with certified bounds and write a checkpoint.

    After every epoch the state of the run goes to a file beside the checkpoint, from which --resume continues exactly.
    `torchrun --nproc-per-node N -m lbp train ...` trains by N processes.
    """
    if resume and restart:
        raise OutputError("--resume continues an unfinished run, --restart throws it away; give one of them")
    settings = read_settings(config, dict(_pair(change) for change in changes or []))
    target = output or config.with_suffix(".safetensors")
    state = _state_of(target)
    prepare_files(target, state, inputs=[config])
    if tensorboard is not None:
        prepare_folder(tensorboard)
    with joined_world(chosen_device(device)) as world, only_writer(target) if world.leads else nullcontext():
        if resume and _is_finished(world, state, target, settings):
            if world.leads:
                say(f"{target} is finished already")
            return
        world.barrier()
        if world.leads:
            if resume and not state.exists():
                warn(f"nothing to resume, there is neither {state} nor {target}: the training starts anew")
            _settle_state(state, resume=resume, restart=restart)
            for path in (state, target):
                remove_leftovers(path)
        world.barrier()
        if not world.leads:
            run(settings, data_root, world=world, state=state, capture=graphs)
            return
        with told_to_resume(state):
            trained, failure = _run(settings, data_root, world, state, tensorboard, graphs)
        trained.save(target)
        state.unlink(missing_ok=True)
        _report(trained, target)
        if failure is not None:
            raise OutputError(f"{failure}; the network itself is complete") from failure


def _run(
    settings: RunSettings, data_root: Path | None, world: World, state: Path, tensorboard: Path | None, graphs: bool
) -> tuple[Run, OutputError | None]:
    """Train, and return why the TensorBoard log ends before the training, where it does."""
    failures: list[OutputError] = []

    @contextmanager
    def logging() -> Iterator[None]:
        try:
            yield
        except OutputError as error:
            failures.append(error)
            warn(f"{error}; the training goes on without it")

    with ExitStack() as stack:
        log = None if tensorboard is None else stack.enter_context(TensorBoardLog(tensorboard))
        progress = TrainingProgress(stack.enter_context(progress_bars()), settings.model.architecture)

        def on_step(record: StepRecord) -> None:
            progress(record)
            if log is not None and not failures:
                with logging():
                    log.on_step(record)

        def on_epoch(record: EpochRecord) -> None:
            if log is not None and not failures:
                with logging():
                    log.on_epoch(record)

        trained = run(settings, data_root, on_step, on_epoch=on_epoch, world=world, state=state, capture=graphs)
        if log is not None:
            with suppress(OutputError) if failures else logging():
                log.close()
    return trained, failures[0] if failures else None


def _pair(change: str) -> tuple[str, str]:
    name, equals, value = change.partition("=")
    if not equals or not name.strip():
        raise typer.BadParameter(f"--set takes NAME=VALUE, got {change!r}")
    return name.strip(), value.strip()


def _state_of(target: Path) -> Path:
    """The file for the state of the run that writes a checkpoint: net.state.safetensors for net.safetensors.

    Checkpoints of other names, such as run.lr0.1 and run.lr0.2, have states of their own as well.
    """
    if target.suffix == ".safetensors":
        return target.with_suffix(".state.safetensors")
    return target.with_name(f"{target.name}.state")


def _settle_state(state: Path, *, resume: bool, restart: bool) -> None:
    """Keep or remove what an unfinished run left, as the user says."""
    if not state.exists() or resume:
        return
    if not restart:
        raise OutputError(f"{state} holds an unfinished run: --resume continues it, --restart throws it away")
    state.unlink()


def _is_finished(world: World, state: Path, target: Path, settings: RunSettings) -> bool:
    """Whether nothing is left to resume: the same answer in all processes, which may see different folders.

    The first process decides, which alone writes the checkpoint.

    Raises:
        StateError: not all processes find the state.
        LbpError: the finished network cannot be read, or these settings did not give it.
    """
    found = world.gather(state.exists())
    if any(found) and not all(found):
        ranks = ", ".join(str(rank) for rank, there in enumerate(found) if there)
        raise StateError(f"of {world.size} processes only {ranks} find {state}; keep it where all can read it")
    finished, refusal = False, None
    if world.leads and not any(found) and target.exists():
        try:
            _check_finished(target, settings)
            finished = True
        except LbpError as error:
            refusal = error
    is_finished, reason = world.gather((finished, None if refusal is None else str(refusal)))[0]
    if reason is not None:
        raise refusal or OutputError(reason)
    return bool(is_finished)


def _check_finished(target: Path, settings: RunSettings) -> None:
    """Refuse to go on with a finished network that these settings did not give."""
    wanted = settings.model_dump(mode="json")
    found = checkpoint.load(target).training
    if any(found.get(name) != table for name, table in wanted.items()):
        raise OutputError(
            f"{target} was trained with other settings, and nothing is left to --resume; name another --output, or "
            "leave out --resume to replace it"
        )


def _report(trained: Run, target: Path) -> None:
    last, selection = trained.history[-1], trained.selection
    verified = "" if last.verified_error is None else f", verified error {100 * last.verified_error:.2f}%"
    say(f"last epoch, on the training set at eps {last.eps:g}: clean error {100 * last.clean_error:.2f}%{verified}")
    if selection["by"] != "last":
        chosen = trained.history[selection["epoch"]]
        assert chosen.held_out_clean_error is not None
        assert chosen.held_out_verified_error is not None
        say(
            f"kept epoch {selection['epoch'] + 1}, the best of all at the last eps and eta on "
            f"{selection['examples']} images of the {selection['by']} set: clean error "
            f"{100 * chosen.held_out_clean_error:.2f}%, verified error "
            f"{100 * chosen.held_out_verified_error:.2f}% by IBP"
        )
    say(f"wrote {target}")
