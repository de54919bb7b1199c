"""What a budget may be, what it is where nobody gives one, and how many rows fit into it."""

import math

import pytest
import torch
from methods.budgets import MIB, bounded, network

from lbp.errors import InvalidInputError
from lbp.methods import memory
from lbp.methods.memory import budget_in_bytes, rows_beside


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (12, 12),
        ("12", 12),
        ("4GiB", 2**32),
        ("1.5 MiB", 1.5 * MIB),
        ("2GB", 2 * 10**9),
        ("7b", 7),
        ("3k", 3000),
        ("2 Gi", 2**31),
    ],
)
def test_amounts_of_memory(text, expected):
    assert budget_in_bytes(text) == expected


@pytest.mark.parametrize(
    "wrong", [0, -1, "4 apples", "\N{ARABIC-INDIC DIGIT FOUR}GiB", "", "GiB", math.nan, math.inf, True, None, [1]]
)
def test_what_is_no_amount_of_memory_is_refused(wrong):
    with pytest.raises(InvalidInputError, match="memory_budget must be"):
        budget_in_bytes(wrong)


def test_the_budget_may_be_an_option():
    model = network("chain")
    with pytest.raises(InvalidInputError, match="too small"):
        bounded(model, 1, None, memory_budget="1kB")()
    with pytest.raises(InvalidInputError, match="memory_budget must be"):
        bounded(model, 1, None, memory_budget="much")


@pytest.mark.parametrize(
    ("budget", "scratch", "expected"),
    [
        (100, lambda rows: 0, 10),
        (57, lambda rows: 0, 5),
        (57, lambda rows: 20, 3),
        (57, lambda rows: 5 * rows, 3),
        (57, lambda rows: min(100 * rows, 30), 2),
        (5, lambda rows: 0, 1),
        (57, lambda rows: 10**9, 1),
        (-5, lambda rows: 0, 1),
    ],
)
def test_as_many_rows_as_fit_with_their_scratch_memory(budget, scratch, expected):
    assert rows_beside(budget, 10, 10, scratch) == expected


class Driver:
    """A device of which another process may take memory, and this one through PyTorch."""

    def __init__(self, free, monkeypatch):
        self.free, self.reserved, self.allocated, self.asked, self.now = free, 0, 0, 0, 100.0
        monkeypatch.setattr(memory, "_available", {})
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "mem_get_info", self._answer)
        monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", self._statistics)
        monkeypatch.setattr(memory.time, "monotonic", lambda: self.now)

    def _answer(self, device):
        self.asked += 1
        return self.free, 10**9

    def _statistics(self, device):
        numbers = {"reserved_bytes": self.reserved, "allocated_bytes": self.allocated}
        return {name: {"all": {"current": number}} for name, number in numbers.items()} if self.reserved else {}


def test_free_memory_of_a_device_follows_what_this_process_allocates_without_asking_the_driver_again(monkeypatch):
    driver, device = Driver(700, monkeypatch), torch.device("cuda")
    assert memory.free_memory(device) == 700
    driver.free, driver.reserved, driver.allocated = 400, 300, 250
    assert memory.free_memory(device) == memory.free_memory(torch.device("cuda", 0)) == 450
    driver.allocated = 10
    assert memory.free_memory(device) == 690
    assert driver.asked == 1


def test_free_memory_of_a_device_follows_what_other_processes_allocate_a_little_later(monkeypatch):
    driver, device = Driver(700, monkeypatch), torch.device("cuda", 1)
    assert memory.free_memory(device) == 700
    driver.free = 20
    driver.now += 1.1 * memory.ASK_DRIVER_AFTER_S
    assert memory.free_memory(device) == 20
    driver.free, driver.reserved, driver.allocated = 0, 20, 30
    assert memory.free_memory(device) == 0
