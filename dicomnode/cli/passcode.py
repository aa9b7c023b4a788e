"""Print a passcode as [users] should keep it: hashed. It is asked for on the terminal, or read from a pipe."""

from __future__ import annotations

import argparse
import getpass
import sys

from dicomnode.errors import BadRequest
from dicomnode.roles.storescp.passcode import hashed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: a passcode on the command line could be read by everybody on the machine."""


def run(arguments: argparse.Namespace) -> int:
    """Print the hash; return 0."""
    passcode = _asked() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if not passcode:
        raise BadRequest("an empty passcode is none")
    print(hashed(passcode.encode()))
    return 0


def _asked() -> str:
    passcode = getpass.getpass("passcode: ")
    if getpass.getpass("again: ") != passcode:
        raise BadRequest("the two are not the same")
    return passcode
