"""A plugin of pytest, which `make test-emulated` asks for: the tests together must launch every CUDA kernel.

A kernel is a template instance that some launcher names. With pytest-xdist each process reports what it launched.
"""

from typing import Any

import pytest
from emulation.load import load_module

REPORT = "kernels"


class EveryKernel:
    """All kernels by name, and whether some process has launched each."""

    def __init__(self) -> None:
        self._launched: dict[str, bool] = {}

    def add(self, kernels: dict[str, bool]) -> None:
        """Add what a process has launched of the kernels that it knows."""
        for name, launched in kernels.items():
            self._launched[name] = launched or self._launched.get(name, False)

    def left_out(self) -> list[str]:
        return sorted(name for name, launched in self._launched.items() if not launched)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.add(getattr(node, "workeroutput", {}).get(REPORT, {}))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        kernels = load_module().kernels()
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput[REPORT] = kernels
            return
        self.add(kernels)
        if session.exitstatus == pytest.ExitCode.OK and self.left_out():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        left_out = self.left_out()
        terminalreporter.write_line(f"{len(self._launched) - len(left_out)} of {len(self._launched)} kernels launched")
        for name in left_out:
            terminalreporter.write_line(f"not launched: {name}", red=True)
