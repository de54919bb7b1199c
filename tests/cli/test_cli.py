"""The command line: what it prints, what it writes, and how it refuses."""

import json
import os
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from lbp import __version__, checkpoint, cli
from lbp.commands.network import load_subject
from lbp.data import load
from lbp.models import ModelSettings, build

runner = CliRunner()


@pytest.fixture
def network(tmp_path):
    settings = ModelSettings(architecture="DM-Small", input_shape=(1, 8, 8), num_classes=10)
    checkpoint.save(tmp_path / "net.safetensors", build(settings), settings, {"data": {"name": "digits"}})
    return tmp_path / "net.safetensors"


def invoke(*arguments):
    return runner.invoke(cli.app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def run_main(monkeypatch, capsys, *arguments):
    """Runs the console script and gives its exit code and what it wrote to standard error."""
    monkeypatch.setattr(sys, "argv", ["lbp", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code, capsys.readouterr().err


def test_what_draws_nothing_needs_no_library_for_pictures():
    hidden = "import sys; sys.modules.update(matplotlib=None, PIL=None); import lbp.cli"
    finished = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_the_version_is_that_of_the_package():
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.stdout == f"lbp {__version__}\n"


def test_the_help_has_the_exit_codes():
    assert "Exit codes: 0 done, 1 a fault of lbp, 2 an error" in " ".join(invoke("--help").stdout.split())


def test_info_lists_versions():
    result = invoke("info")
    assert result.exit_code == 0
    assert "torch" in result.stdout.lower()


def test_train_writes_a_checkpoint_that_verify_reads(tmp_path):
    config = tmp_path / "tiny.toml"
    config.write_text(
        '[data]\nlimit = 60\n[model]\nactivation = { name = "ramp" }\n'
        "[training]\neps = 0.02\nepochs = 2\nwarm_up_epochs = 1\nbatch_size = 30\n"
    )
    trained = invoke("train", config)
    assert trained.exit_code == 0, trained.output
    assert "tiny.safetensors" in trained.stdout
    verified = invoke("verify", tmp_path / "tiny.safetensors", "--eps", 0.01, "--limit", 3, "--methods", "IBP")
    assert verified.exit_code == 0, verified.output


def test_demo_leaves_checkpoints_results_and_a_picture(tmp_path):
    result = invoke("demo", "--output", tmp_path, "--epochs", 4, "--limit", 4)
    assert result.exit_code == 0, result.output
    for text in ("ReLU", "ParamRamp", "Relaxed-CROWN-2"):
        assert text in result.stdout
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"relu.safetensors", "paramramp.safetensors", "results.json", "overview.png"}
    assert (tmp_path / "overview.png").read_bytes().startswith(b"\x89PNG")
    summaries = json.loads((tmp_path / "results.json").read_text())
    assert all(len(summaries[name]["summary"]["methods"]) == 6 for name in ("ReLU", "ParamRamp"))
    assert checkpoint.load(tmp_path / "paramramp.safetensors").training["training"]["epochs"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "nowhere.safetensors", "--eps", "0.1"], "nowhere.safetensors: no such file"),
        (["verify", "NETWORK", "--eps", "0.1", "--methods", "IBP,DROWN"], "DROWN"),
        (["verify", "NETWORK", "--eps", "-0.1", "--limit", "1"], "eps"),
        (["verify", "NETWORK", "--eps", "0.1", "--limit", "1", "--strategy", "loose"], "loose"),
        (["verify", "NETWORK", "--eps", "0.1", "--data", "imagenet"], "unknown data set 'imagenet'"),
        (["verify", "NETWORK", "--eps", "0.1", "--split", "validation"], "unknown split 'validation'"),
        (["verify", "NETWORK", "--eps", "0.1", "--data", "mnist"], "--data-root"),
        (["verify", "NETWORK", "--eps", "0.1", "--data", "mnist", "--data-root", "."], "train-|t10k-"),
        (["verify", "NETWORK", "--eps", "0.1", "--json", "."], "is a folder, expected a file name"),
        (["verify", "NETWORK", "--eps", "0.1", "--resume"], "name it by --results"),
        (["verify", "NETWORK", "--eps", "0.1", "--rounding", "up"], "error: rounding: must be one of nearest"),
        (["train", "nothing.toml"], "nothing.toml: no such file"),
        (["train", "."], "not a readable TOML file (Is a directory)"),
        (["bench", "--show", "."], "not a record of `lbp bench` (Is a directory)"),
        (["bench", "--contender", "foo"], "'native', 'native, every row', 'native, dense'"),
        (
            ["plot", "tightness", "NETWORK", "--strategies", "tight,loose"],
            "--strategies: bounding lines must be one of adaptive",
        ),
        (
            ["plot", "slope-sweep", "NETWORK", "--eps", "0.1", "--strategies", ""],
            "--strategies: bounding lines must be one of adaptive",
        ),
        (["plot", "training", "NETWORK", "--output", "picture.pdf"], "name one that ends in .png, not picture.pdf"),
        (["demo", "--eps", "-1"], "--eps must be finite and not negative, got -1"),
        (["demo", "--output", "NETWORK"], "cannot make the folder"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence_and_exit_code_2(
    monkeypatch, capsys, tmp_path, network, arguments, message
):
    monkeypatch.chdir(tmp_path)
    code, errors = run_main(monkeypatch, capsys, *[network if part == "NETWORK" else part for part in arguments])
    assert code == 2
    lines = [line for line in errors.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert any(part in lines[0] for part in message.split("|"))
    assert "Traceback" not in errors


def test_what_is_wrong_is_said_once(monkeypatch, capsys, network):
    code, errors = run_main(monkeypatch, capsys, "evaluate", network, "--eps", "0.1", "--strategies", "tight,loose")
    assert code == 2
    assert "got 'loose'" in errors
    assert errors.count("strategies") == 1
    code, errors = run_main(monkeypatch, capsys, "evaluate", network, "--eps", "0.1", "--strategies", "loose")
    assert code == 2
    assert errors.count("strategies") == 1


@pytest.mark.parametrize(
    "eps", ["abc", "1/0", "8/x", "nan", "inf", "1_0", "1e999", "\N{ARABIC-INDIC DIGIT ONE}", "1/1e-320"]
)
def test_radii_that_are_not_numbers_are_usage_errors(network, eps):
    result = invoke("verify", network, "--eps", eps)
    assert result.exit_code == 2
    assert "expected a number or a quotient" in result.output


@pytest.mark.parametrize("command", ["verify", "evaluate"])
def test_unknown_devices_are_usage_errors(network, command):
    result = invoke(command, network, "--eps", "0.1", "--device", "abacus")
    assert result.exit_code == 2
    assert "unknown device 'abacus'" in result.output


@pytest.mark.parametrize("device", ["meta", "mps", "xpu", "cuda:99"])
def test_devices_without_bounds_are_usage_errors(network, device):
    commands = ["verify", network, "--eps", "0.1"], ["plot", "tightness", network], ["bench"]
    for command in commands:
        result = invoke(*command, "--device", device)
        assert result.exit_code == 2, result.output
        assert "CUDA device" in result.output or device in result.output


@pytest.mark.parametrize("norm", ["-inf", "nan", "0.5", "-2"])
def test_a_norm_is_at_least_1(monkeypatch, capsys, network, norm):
    code, errors = run_main(monkeypatch, capsys, "verify", network, "--eps", "0.1", f"--norm={norm}", "--limit", "1")
    assert code == 2
    assert f"--norm must be at least 1, or inf, got {norm}" in errors


def test_an_attack_that_cannot_run_is_not_reported(network):
    result = invoke(
        "verify", network, "--eps", 0.1, "--limit", 3, "--methods", "IBP", "--attack-restarts", 0, "--attack-queries", 0
    )
    assert result.exit_code == 0, result.output
    assert "attacked error" not in result.stdout
    assert "no attack was run" in result.stdout


@pytest.mark.parametrize("name", ["a[/b]", "run[red]", "a$x_{$"])
def test_brackets_and_dollars_in_names_are_neither_markup_nor_formulas(tmp_path, network, name):
    folder = tmp_path / name
    folder.mkdir(parents=True)
    (folder / f"{folder.name}.toml").write_text(CONFIG)
    trained = invoke("train", folder / f"{folder.name}.toml", "--device", "cpu")
    assert f"wrote {folder / folder.name}.safetensors\n" in trained.stdout
    for command in (["neuron-status", "--eps", "0.1", "--limit", "2"], ["training"]):
        checkpoints = [folder / f"{folder.name}.safetensors", network][: 1 + (command[0] == "neuron-status")]
        drawn = invoke("plot", *command, *checkpoints, "--output", folder / "picture.png")
        assert drawn.exit_code == 0, drawn.output
        assert f"wrote {folder}/picture.png\n" in drawn.stdout


VERIFY = ["verify", "NETWORK", "--eps", "0.1", "--limit", "2", "--methods", "IBP", "--no-attack"]
EVALUATE = ["evaluate", "NETWORK", "--eps", "0.1", "--limit", "2", "--methods", "IBP", "--pgd-restarts", "0"]
CONFIG = "[data]\nlimit = 40\n[training]\neps = 0.02\nepochs = 1\nbatch_size = 20\n"


@pytest.fixture
def command_line(network, tmp_path):
    """Puts the paths of the files into the arguments of a command."""
    (tmp_path / "net.toml").write_text(CONFIG)
    paths = {"NETWORK": network, "CONFIG": tmp_path / "net.toml", "OUT": tmp_path / "out", "LINK": tmp_path / "link"}
    return lambda arguments: [str(paths.get(part, part)) for part in arguments]


@pytest.mark.parametrize(
    "arguments",
    [
        [*VERIFY, "--json", "OUT", "--results", "OUT"],
        [*VERIFY, "--json", "LINK", "--results", "OUT"],
        [*VERIFY, "--json", "NETWORK"],
        [*EVALUATE, "--json", "OUT", "--markdown", "OUT"],
        [*EVALUATE, "--results", "OUT", "--markdown", "OUT"],
        ["train", "CONFIG", "--output", "CONFIG"],
        ["plot", "training", "NETWORK", "--output", "NETWORK"],
        ["verify-vnnlib", "NETWORK", "CONFIG", "--result", "OUT", "--counterexample", "OUT"],
        ["verify-vnnlib", "--instances", "CONFIG", "--results", "CONFIG"],
    ],
)
def test_every_output_needs_a_file_of_its_own(monkeypatch, capsys, tmp_path, network, command_line, arguments):
    (tmp_path / "link").symlink_to(tmp_path / "out")
    before = network.read_bytes()
    code, errors = run_main(monkeypatch, capsys, *command_line(arguments))
    assert code == 2
    assert "is named for two files of this command" in errors
    assert network.read_bytes() == before
    assert not (tmp_path / "out").exists()


OUTPUTS = [
    [*VERIFY, "--json", "OUT"],
    [*EVALUATE, "--markdown", "OUT"],
    ["train", "CONFIG", "--output", "OUT", "--device", "cpu"],
    ["plot", "neuron-status", "NETWORK", "--eps", "0.1", "--limit", "2", "--output", "OUT"],
]


@pytest.mark.parametrize("arguments", [*OUTPUTS, [*VERIFY, "--results", "OUT"], ["bench", "--output", "OUT"]])
def test_pipes_are_refused_before_the_work(monkeypatch, capsys, tmp_path, command_line, arguments):
    os.mkfifo(tmp_path / "out")
    code, errors = run_main(monkeypatch, capsys, *command_line(arguments))
    assert code == 2
    assert "out is a device or a pipe, expected a file name" in errors.replace("\n", " ")
    assert (tmp_path / "out").is_fifo()


@pytest.mark.parametrize("arguments", OUTPUTS)
def test_a_full_disk_is_one_sentence(monkeypatch, capsys, tmp_path, command_line, arguments):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(sys, "argv", ["lbp", *command_line(arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert "error: cannot write " in printed.err
    assert "(No space left on device)" in printed.err
    assert "Traceback" not in printed.err
    if arguments[0] in ("verify", "evaluate"):
        assert "clean" in printed.out, "what was found is printed nevertheless"


def test_what_the_system_refuses_is_one_sentence(monkeypatch, capsys, network):
    def refused(*arguments):
        raise PermissionError(13, "Permission denied", "some/file")

    monkeypatch.setattr("lbp.commands.verify.load_subject", refused)
    code, errors = run_main(monkeypatch, capsys, "verify", network, "--eps", "0.1")
    assert code == 2
    assert "Permission denied: 'some/file'" in errors


def test_networks_trained_on_windows_see_the_central_ones(tmp_path):
    settings = ModelSettings(architecture="DM-Small", input_shape=(1, 6, 6), num_classes=10)
    model, path = build(settings), tmp_path / "net"
    checkpoint.save(path, model, settings, {"data": {"name": "digits", "crop": 6}})
    subject = load_subject(path, None, "test", None, 3, torch.device("cpu"))
    assert torch.equal(subject.images, load("digits", "test").images[:3, :, 1:7, 1:7])


def test_data_that_does_not_fit_the_network_is_refused(monkeypatch, capsys, tmp_path):
    settings = ModelSettings(architecture="DM-Small", input_shape=(1, 28, 28), num_classes=10)
    checkpoint.save(tmp_path / "net", build(settings), settings)
    code, errors = run_main(monkeypatch, capsys, "verify", tmp_path / "net", "--eps", "0.1", "--data", "digits")
    assert code == 2
    assert "takes images of shape (1, 28, 28)" in errors


def test_the_data_set_must_be_named_where_the_checkpoint_does_not(monkeypatch, capsys, tmp_path):
    settings = ModelSettings(architecture="DM-Small", input_shape=(1, 8, 8), num_classes=10)
    checkpoint.save(tmp_path / "net", build(settings), settings)
    code, errors = run_main(monkeypatch, capsys, "verify", tmp_path / "net", "--eps", "0.1")
    assert code == 2
    assert "name the data set by --data" in errors


def test_more_threads_than_a_machine_can_have_are_refused(monkeypatch, capsys):
    code, errors = run_main(monkeypatch, capsys, "bench", "ops", "--threads", "99999999999")
    assert code == 2
    assert "4096" in errors
