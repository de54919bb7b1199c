"""`lbp verify-vnnlib`: words, files, exit codes, and a batch that an error does not stop."""

import csv
import gzip

import numpy as np
import pytest
from cli.test_cli import invoke, run_main
from onnx_import.graphs import model, node, save

from lbp import cli
from lbp.onnx_import import read_onnx

BOX = "".join(f"(declare-const X_{i} Real)(assert (>= X_{i} 0))(assert (<= X_{i} 1))" for i in range(2))
PROPERTIES = {
    "unsat": BOX + "(declare-const Y_0 Real)(assert (>= Y_0 2.5))",
    "sat": BOX + "(declare-const Y_0 Real)(assert (>= Y_0 1.5))",
}


@pytest.fixture
def folder(tmp_path):
    """y = x_0 + relu(x_1) over the unit square: at most 2."""
    nodes = [node("Relu", ["x"], "r"), node("MatMul", ["r", "w"])]
    save(tmp_path, model(nodes, [1, 2], {"w": np.array([[1.0], [1.0]])}))
    for word, text in PROPERTIES.items():
        (tmp_path / f"{word}.vnnlib").write_text(text)
    (tmp_path / "packed.vnnlib.gz").write_bytes(gzip.compress(PROPERTIES["unsat"].encode()))
    return tmp_path


def test_a_property_that_holds_is_unsat_with_exit_code_0(folder):
    found = invoke("verify-vnnlib", folder / "net.onnx", folder / "unsat.vnnlib", "--result", folder / "out" / "r.txt")
    assert found.exit_code == 0, found.output
    assert found.stdout.startswith("unsat: the property holds")
    assert (folder / "out" / "r.txt").read_text() == "unsat\n"


def test_a_counterexample_is_sat_with_exit_code_10_and_is_written(folder):
    found = invoke(
        "verify-vnnlib", folder / "net.onnx", folder / "sat.vnnlib", "--timeout", 60,
        "--result", folder / "r.txt", "--counterexample", folder / "point.txt",
    )  # fmt: skip
    assert found.exit_code == 10, found.output
    word, _, point = (folder / "r.txt").read_text().partition("\n")
    assert word == "sat"
    assert (folder / "point.txt").read_text() == point
    numbers = [float(line.strip("()").split()[1]) for line in point.splitlines()]
    assert len(numbers) == 3
    assert all(0 <= value <= 1 for value in numbers[:2])
    assert read_onnx(folder / "net.onnx").evaluate(np.array(numbers[:2])).item() == numbers[2] >= 1.5


def test_no_answer_has_words_and_codes_of_its_own(folder):
    late = invoke("verify-vnnlib", folder / "net.onnx", folder / "unsat.vnnlib", "--timeout", 1e-6)
    assert late.exit_code == 12
    assert late.stdout.startswith("timeout:")


def test_an_error_is_no_verdict(folder, monkeypatch, capsys):
    result = folder / "r.txt"
    code, message = run_main(
        monkeypatch, capsys, "verify-vnnlib", folder / "net.onnx", folder / "none.vnnlib", "--result", result
    )
    assert code == 2
    assert "no such file" in message
    assert result.read_text() == "error\n"
    (folder / "bad.vnnlib").write_text(BOX + "(declare-const Y_0 Real)(declare-const Y_1 Real)(assert (>= Y_0 2.5))")
    code, message = run_main(monkeypatch, capsys, "verify-vnnlib", folder / "net.onnx", folder / "bad.vnnlib")
    assert code == 2
    assert "about 2 outputs" in message


def test_a_program_error_is_not_taken_for_a_verdict(folder, monkeypatch):
    def fail(*args, **keywords):
        raise ZeroDivisionError("inside")

    monkeypatch.setattr("lbp.commands.verify_vnnlib.verify_property", fail)
    found = invoke("verify-vnnlib", folder / "net.onnx", folder / "unsat.vnnlib", "--result", folder / "r.txt")
    assert found.exit_code == 1
    assert isinstance(found.exception, ZeroDivisionError)
    assert (folder / "r.txt").read_text() == "error\n"


def test_a_batch_writes_a_line_per_instance_and_goes_on_after_errors(folder):
    (folder / "instances.csv").write_text(
        "net.onnx,unsat.vnnlib,60\nmissing.onnx,sat.vnnlib,60\n\n./net.onnx,sat.vnnlib\nnet.onnx,packed.vnnlib,60\n"
    )
    found = invoke("verify-vnnlib", "--instances", folder / "instances.csv", "--results", folder / "results.csv")
    assert found.exit_code == 2, found.output
    assert found.stdout.splitlines()[-1] == "1 error, 1 sat, 2 unsat"
    rows = list(csv.reader((folder / "results.csv").read_text().splitlines()))
    assert [row[:3] for row in rows] == [
        ["net.onnx", "unsat.vnnlib", "unsat"],
        ["missing.onnx", "sat.vnnlib", "error"],
        ["./net.onnx", "sat.vnnlib", "sat"],
        ["net.onnx", "packed.vnnlib", "unsat"],
    ]
    assert all(float(row[3]) >= 0 for row in rows)


def test_check_reads_every_file_once_and_names_what_is_refused(folder):
    save(folder, model([node("Sigmoid", ["x"])], [1, 2]), "smooth.onnx")
    save(folder, model([node("Relu", ["x"])], [1, 3]), "three.onnx")
    (folder / "bad.vnnlib").write_text("(assert (or))")
    lines = ["net.onnx,unsat.vnnlib", "smooth.onnx,sat.vnnlib,1", "net.onnx,bad.vnnlib", "net.onnx,packed.vnnlib"]
    (folder / "instances.csv").write_text("\n".join(lines))
    found = invoke("verify-vnnlib", "--instances", folder / "instances.csv", "--check")
    assert found.exit_code == 2, found.output
    assert f"read {folder / 'net.onnx'}: 2 inputs, 1 outputs" in found.stdout
    assert f"refused {folder / 'smooth.onnx'}: operator Sigmoid" in found.stdout
    assert f"refused {folder / 'bad.vnnlib'}, line 1" in found.stdout
    assert found.stdout.splitlines()[-2:] == ["networks: 1 read, 1 refused", "properties: 3 read, 1 refused"]
    assert invoke("verify-vnnlib", folder / "net.onnx", folder / "unsat.vnnlib", "--check").exit_code == 0
    misfit = invoke("verify-vnnlib", folder / "three.onnx", folder / "unsat.vnnlib", "--check")
    assert misfit.exit_code == 2
    assert f"does not fit {folder / 'three.onnx'}" in misfit.stdout


def test_inference_is_that_in_the_precision_of_the_file(folder):
    # 2^24 + 1/2 - 2^24: in float32 the half is lost.
    save(folder, model([node("MatMul", ["x", "w"])], [1, 3], {"w": np.array([[1.0], [1.0], [-1.0]])}))
    ends = (2**24, 0.5, 2**24)
    box = "".join(
        f"(declare-const X_{i} Real)(assert (>= X_{i} {x}))(assert (<= X_{i} {x}))" for i, x in enumerate(ends)
    )
    (folder / "half.vnnlib").write_text(box + "(declare-const Y_0 Real)(assert (<= Y_0 0.25))")
    arguments = ("verify-vnnlib", folder / "net.onnx", folder / "half.vnnlib", "--rounding")
    assert invoke(*arguments, "outward").exit_code == 0
    assert invoke(*arguments, "inference").exit_code == 11
    assert invoke(*arguments, "inference", "--precision", "float64").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give NET.onnx and PROP.vnnlib"),
        (("net.onnx", "unsat.vnnlib", "--timeout", 0), "must be positive"),
        (("net.onnx", "unsat.vnnlib", "--precision", "half"), "auto, float32 or float64"),
        (("net.onnx", "unsat.vnnlib", "--methods", "magic"), "magic"),
        (("net.onnx", "unsat.vnnlib", "--split-method", "magic"), "magic"),
        (("net.onnx", "unsat.vnnlib", "--split-method", "ibp"), "no linear bounds"),
        (("net.onnx", "unsat.vnnlib", "--strategy", "loose"), "--strategy: bounding lines must be one of adaptive"),
        (("--instances", "instances.csv", "--strategy", "loose"), "--strategy: bounding lines must be one of adaptive"),
        (("--instances", "instances.csv", "--split-method", "ibp"), "no linear bounds"),
        (("net.onnx", "--instances", "instances.csv"), "--instances takes neither"),
        (("net.onnx", "unsat.vnnlib", "--check", "--timeout", 5), "leave out --timeout"),
        (
            ("net.onnx", "unsat.vnnlib", "--check", "--result", "new/r", "--counterexample", "new/c"),
            "decides nothing; leave out --result, --counterexample",
        ),
        (("--instances", "instances.csv", "--check", "--results", "new/r.csv"), "leave out --results"),
        (("--instances", "missing.csv"), "missing.csv: cannot be read (No such file or directory)"),
    ],
)
def test_arguments_are_checked_before_the_work(arguments, message, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    code, text = run_main(monkeypatch, capsys, "verify-vnnlib", *arguments)
    assert code == 2
    assert message in text
    assert not (folder / "new").exists()


def test_a_very_long_time_is_time(folder):
    assert invoke("verify-vnnlib", folder / "net.onnx", folder / "unsat.vnnlib", "--timeout", "1e300").exit_code == 0


def test_an_answer_that_cannot_be_written_is_printed(folder, monkeypatch, capsys):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    files = [str(folder / name) for name in ("net.onnx", "sat.vnnlib")]
    monkeypatch.setattr("sys.argv", ["lbp", "verify-vnnlib", *files, "--result", str(folder / "r.txt")])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    printed = capsys.readouterr()
    assert caught.value.code == 2, "no verdict: nothing was written"
    assert printed.out.startswith("sat: ")
    assert "(Y_0 " in printed.out, "the counterexample is not lost"
    assert "r.txt (No space left on device)" in printed.err.replace("\n", "")


def test_a_line_that_cannot_be_written_ends_the_batch_and_leaves_the_lines_before(folder, monkeypatch, capsys):
    (folder / "instances.csv").write_text("net.onnx,unsat.vnnlib,60\nnet.onnx,sat.vnnlib,60\n")
    arguments = ("verify-vnnlib", "--instances", folder / "instances.csv", "--results", folder / "results.csv")
    assert invoke(*arguments).exit_code == 0
    before = (folder / "results.csv").read_bytes()
    monkeypatch.setattr("os.write", lambda descriptor, content: 0)
    code, text = run_main(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "cannot write the results to" in text
    assert (folder / "results.csv").read_bytes() == before


@pytest.mark.parametrize(
    "line",
    [
        "net.onnx",
        *(f"net.onnx,unsat.vnnlib,{limit}" for limit in ("nan", "0", "inf", "1_0", "\N{FULLWIDTH DIGIT ONE}")),
    ],
)
def test_a_line_of_another_form_is_named(folder, monkeypatch, capsys, line):
    (folder / "instances.csv").write_text(f"net.onnx,unsat.vnnlib,60\n{line}\n", encoding="utf-8")
    code, text = run_main(monkeypatch, capsys, "verify-vnnlib", "--instances", folder / "instances.csv")
    assert code == 2
    assert "instances.csv, line 2" in text


def test_the_mark_that_some_programs_put_before_a_text_is_no_part_of_a_name(folder):
    (folder / "instances.csv").write_text("net.onnx,unsat.vnnlib,60\n", encoding="utf-8-sig")
    found = invoke("verify-vnnlib", "--instances", folder / "instances.csv")
    assert found.exit_code == 0, found.output
    assert found.stdout.startswith("net.onnx unsat.vnnlib unsat")


def test_a_line_that_is_too_long_for_a_name_is_an_error_of_the_file(folder, monkeypatch, capsys):
    (folder / "instances.csv").write_text(f"{200_000 * 'a'},unsat.vnnlib,60\n")
    code, text = run_main(monkeypatch, capsys, "verify-vnnlib", "--instances", folder / "instances.csv")
    assert code == 2
    assert "instances.csv: cannot be read (field larger than field limit" in text
