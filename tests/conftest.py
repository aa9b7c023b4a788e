from __future__ import annotations

import shutil
import signal

import pytest
from hypothesis import settings

from tests.backends import started

# An example may take its time on a busy machine.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def pytest_configure() -> None:
    """Let programs that the tests start hear Ctrl-C, also where a shell started us in the background, deaf to it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a program that is not here, and say which."""
    for mark in item.iter_markers("external"):
        for program in mark.args:
            if shutil.which(program) is None:
                pytest.skip(f"not tested beside {program}: it is not installed (scripts/peers installs it)")


def pytest_sessionfinish() -> None:
    """Stop the servers that the tests started."""
    started.stop()
