"""A path that no file can have is refused like any other that cannot be read or written, whatever takes it."""

from pathlib import Path

import pytest
import torch
from torch import nn

import lbp
from lbp import checkpoint
from lbp.bench.record import read_record
from lbp.data import load
from lbp.files import only_writer, write_atomically
from lbp.models import ModelSettings, build
from lbp.results import ResultsFile, read_lines, run_images
from lbp.training import read_settings
from lbp.training.tensorboard import TensorBoardLog
from lbp.vnnlib import read_vnnlib

SETTINGS = ModelSettings(architecture="DM-Small", input_shape=(1, 8, 8), num_classes=3)


def save_bounds(path):
    net = lbp.BoundedModule(nn.Sequential(nn.Linear(2, 2)), torch.zeros(1, 2))
    net.compute_bounds(x=torch.zeros(1, 2), method="IBP")
    net.save_intermediate(path)


def log(path):
    pytest.importorskip("tensorboard")
    TensorBoardLog(path)


TAKERS = {
    "checkpoint.load": checkpoint.load,
    "checkpoint.save": lambda path: checkpoint.save(path, build(SETTINGS), SETTINGS),
    "data.load": lambda path: load("mnist", "test", path),
    "load_onnx": lbp.load_onnx,
    "read_vnnlib": read_vnnlib,
    "read_settings": read_settings,
    "read_lines": read_lines,
    "ResultsFile": lambda path: ResultsFile(path, {}),
    "run_images": lambda path: run_images(lambda todo, emit: None, 1, settings={}, path=path),
    "read_record": read_record,
    "write_atomically": lambda path: write_atomically(path, b""),
    "only_writer": lambda path: only_writer(path).__enter__(),
    "save_intermediate": save_bounds,
    "TensorBoardLog": log,
}


@pytest.mark.parametrize("take", TAKERS.values(), ids=TAKERS)
def test_a_path_with_a_nul_character_is_refused(take, tmp_path):
    with pytest.raises(lbp.errors.LbpError, match=r"null byte|NUL character|is not a folder"):
        take(tmp_path / "before\0after")
    assert list(tmp_path.iterdir()) == []


def test_bounds_are_not_saved_where_they_cannot_be(tmp_path):
    with pytest.raises(lbp.errors.OutputError, match="is a folder"):
        save_bounds(tmp_path)
    save_bounds(Path(tmp_path / "new" / "bounds.pt"))
    assert set(torch.load(tmp_path / "new" / "bounds.pt")) >= {"0"}
