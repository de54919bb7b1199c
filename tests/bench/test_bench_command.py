"""`lbp bench` measures what is asked for, says who takes part, and refuses what it would ignore."""

import sys

import pytest
from bench.records import RATES, record, row
from typer.testing import CliRunner

from lbp.bench.contenders import peer_version
from lbp.bench.record import PEER, PEER_COMMIT, read_record, write_record
from lbp.cli import app
from lbp.commands.bench import _is_wrong, _known
from lbp.errors import InvalidInputError, OutputError


def test_the_command_shows_and_compares_and_draws_records(tmp_path):
    old, new, plots = tmp_path / "old.json", tmp_path / "new.json", tmp_path / "plots"
    write_record(record(row(1.0), row(9.0, contender="reference")), old)
    write_record(record(row(2.0), row(9.0, contender="reference")), new)
    shown = CliRunner().invoke(app, ["bench", "--show", str(old), "--plots", str(plots)])
    assert shown.exit_code == 0, shown.output
    assert "9.0" in shown.output
    assert {path.name for path in plots.iterdir()} == {"speed-up.png", "roofline.png"}
    compared = CliRunner().invoke(app, ["bench", "--compare", str(old), str(new)])
    assert compared.exit_code == 0, compared.output
    assert "2.00" in compared.output


@pytest.mark.parametrize("option", ["--time-limit", "--case-seconds", "--run-limit", "--memory-limit"])
@pytest.mark.parametrize("value", ["nan", "inf", "0", "-1", "1e300"])
def test_limits_are_numbers_that_limit(option, value):
    refused = CliRunner().invoke(app, ["bench", f"{option}={value}"])
    assert isinstance(refused.exception, InvalidInputError)
    assert f"{option} must be above 0" in str(refused.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--compare", "old", "new", "--show", "old"],
        ["--compare", "old", "new", "--plots", "plots"],
        ["--compare", "old", "new", "--output", "new"],
        ["--show", "old", "--output", "new"],
        ["ops", "--show", "old"],
    ],
)
def test_what_measures_nothing_takes_nothing_that_it_would_ignore(tmp_path, arguments):
    names = {name: str(tmp_path / name) for name in ("old", "new", "plots")}
    for name in ("old", "new"):
        write_record(record(row(1.0)), tmp_path / name)
    refused = CliRunner().invoke(app, ["bench", *(names.get(part, part) for part in arguments)])
    assert isinstance(refused.exception, InvalidInputError)
    assert not (tmp_path / "plots").exists()


@pytest.mark.parametrize("arguments", [["training", "--only", "CROWN"], ["ops", "--only", "DM-Small"]])
def test_a_choice_that_leaves_nothing_to_measure_is_refused(monkeypatch, arguments):
    monkeypatch.setattr("lbp.commands.bench.measure_rates", lambda device: record().rates)
    refused = CliRunner().invoke(app, ["bench", "--quick", *arguments])
    assert isinstance(refused.exception, InvalidInputError)
    assert "nothing was measured" in str(refused.exception)


@pytest.mark.parametrize("kept", [False, True])
def test_an_interrupted_measurement_says_where_its_rows_are(tmp_path, monkeypatch, kept):
    def measure(*_):
        yield [row(1.0)]
        raise KeyboardInterrupt

    monkeypatch.setattr("lbp.commands.bench.measure_rates", lambda device: record().rates)
    monkeypatch.setattr("lbp.commands.bench.measure_ops", measure)
    path = tmp_path / "record.json"
    output = ["--output", str(path)] if kept else []
    result = CliRunner().invoke(app, ["bench", "ops", *output], env={"COLUMNS": "200"})
    assert result.exit_code == 130
    assert ("the same command with the same --output measures the rest" in result.output) == kept
    assert ("kept only by --output FILE" in result.output) != kept
    assert not kept or [each.key for each in read_record(path).rows] == [row(1.0).key]


@pytest.fixture
def measured_levels(monkeypatch):
    """The levels that a command measures, which take no time."""
    levels = []

    def measure(level):
        def rows(*_):
            levels.append(level)
            yield [row(1.0)]

        return rows

    monkeypatch.setattr("lbp.commands.bench.measure_rates", lambda device: RATES)
    for level in ("ops", "methods", "training", "growth"):
        monkeypatch.setattr(f"lbp.commands.bench.measure_{level}", measure(level))
    return levels


def test_a_quick_measurement_leaves_growth_out_and_refuses_it_by_name(measured_levels):
    assert CliRunner().invoke(app, ["bench", "--quick"]).exit_code == 0
    assert measured_levels == ["ops", "methods", "training"]
    refused = CliRunner().invoke(app, ["bench", "growth", "--quick"])
    assert isinstance(refused.exception, InvalidInputError)
    assert "--quick has no growth" in str(refused.exception)


def contenders(*arguments):
    """Returns who takes part, and who is absent, by what the command says first."""
    shown = CliRunner().invoke(app, ["bench", *map(str, arguments)], env={"COLUMNS": "500"}).output
    said = dict(line.split(": ", 1) for line in shown.splitlines()[:2] if ": " in line)
    return said["contenders"].split("; "), said.get("absent", "")


@pytest.mark.usefixtures("measured_levels")
def test_the_command_says_who_takes_part_and_who_is_absent(monkeypatch, tmp_path):
    monkeypatch.setattr("lbp.commands.bench.peer_available", lambda peer: peer is not None)
    present, absent = contenders("ops", "methods")
    assert {"native", "reference", "reference compiled"} <= {*present}
    assert absent.startswith("auto_LiRPA patches (not installed; --peer FOLDER adds it); auto_LiRPA matrix (")
    (tmp_path / "auto_LiRPA").mkdir()
    present, absent = contenders("methods", "--peer", tmp_path)
    assert {"auto_LiRPA patches", "auto_LiRPA matrix"} <= {*present}
    assert absent == ""
    assert contenders("growth")[1] == ""
    assert contenders("methods", "--contender", "native") == (["native"], "")


@pytest.mark.usefixtures("measured_levels")
@pytest.mark.parametrize(
    ("level", "reason"), [("ops", "at none of the layers of --quick"), ("methods", "with 16 or 32 images only")]
)
def test_a_quick_measurement_says_that_nothing_is_compiled(level, reason):
    present, absent = contenders(level, "--quick")
    assert "reference compiled" not in present
    assert f"reference compiled ({reason})" in absent


@pytest.mark.usefixtures("measured_levels")
def test_a_record_has_the_version_of_a_peer_that_takes_part(tmp_path):
    (tmp_path / "auto_LiRPA").mkdir()
    (tmp_path / "auto_LiRPA" / "__init__.py").write_text("__version__ = '0.7.1'")
    for level, versions in (("methods", ["0.7.1", "unknown"]), ("growth", [None, None])):
        path = tmp_path / f"{level}.json"
        CliRunner().invoke(app, ["bench", level, "--peer", str(tmp_path), "--output", str(path)])
        assert [read_record(path).versions.get(name) for name in (PEER, PEER_COMMIT)] == versions


def test_no_images_at_once_are_a_usage_error():
    assert CliRunner().invoke(app, ["bench", "--batch", "0"]).exit_code == 2


def test_a_record_that_cannot_be_written_is_shown(tmp_path, monkeypatch):
    command = sys.modules["lbp.commands.bench"]
    measured = [row(1.0), row(9.0, contender="reference")]
    monkeypatch.setattr(command, "measure_rates", lambda device: RATES)
    monkeypatch.setattr(command, "measure_ops", lambda *arguments: iter([measured]))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    result = CliRunner().invoke(app, ["bench", "ops", "--output", str(tmp_path / "record.json")])
    assert isinstance(result.exception, OutputError)
    assert "relax_backward n=8" in result.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("contender", "note", "wrong"),
    [
        ("native", "differs from reference by 1", True),
        ("reference compiled", "differs from reference by 1", True),
        ("auto_LiRPA patches", "differs from reference by 1", False),
        ("CuPy fused", "differs from reference by 1", False),
        ("native, dense", "RuntimeError: a fault", True),
        ("native", "process ended with code -11", True),
        ("reference compiled", "InductorError: no compiler", False),
        *(("native", note, False) for note in ("", "stopped after 12 s", "out of memory", "not run: estimated 120 s")),
    ],
)
def test_faults_of_this_package_end_the_command_with_an_error_and_slowness_does_not(contender, note, wrong):
    assert _is_wrong(row(1.0, contender=contender, note=note)) == wrong


@pytest.mark.parametrize(
    "name", ["DM-Large", "CROWN-IBP", "ramp", "interval_", "outward_interval_conv2d", "concretize_ball p=2"]
)
def test_names_of_networks_methods_and_ops_are_known(name):
    assert _known([name]) == (name,)


@pytest.mark.parametrize("name", ["DM-Larg", "CROWM", "rampp", "", " ", " p=2"])
def test_an_unknown_name_is_refused_instead_of_measuring_everything(name):
    with pytest.raises(InvalidInputError, match=f"--only '{name}' is neither"):
        _known(["ramp", name])


def test_the_version_of_a_peer_is_read_off_its_folder(tmp_path):
    (tmp_path / "auto_LiRPA").mkdir()
    (tmp_path / "auto_LiRPA" / "__init__.py").write_text("import absent\n__version__ = '0.7.1'\n")
    assert peer_version(tmp_path) == "0.7.1"
