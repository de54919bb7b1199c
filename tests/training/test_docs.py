"""The page on training: its code runs, and its tables hold every setting."""

import re
from pathlib import Path

import pytest

from lbp.training import DataChoice, ModelChoice, TrainingSettings

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_code_of_the_page_trains_a_network(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names = {}
    exec(compile(code, "docs/training.md", "exec"), names)
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert not names["model"].training


@pytest.mark.parametrize("table", [DataChoice, ModelChoice, TrainingSettings])
def test_the_tables_of_the_page_name_every_setting(table):
    named = {
        name for row in re.findall(r"^\| (`[^|]*) \|", PAGE, flags=re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert set(table.model_fields) <= named
