"""Write the conformance statement of the node as it is configured, as Markdown in the form of PS3.2."""

from __future__ import annotations

import argparse
from pathlib import Path

from dicomnode.cli.conformance.statement import statement
from dicomnode.cli.options import config_of
from dicomnode.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("--output", metavar="FILE", type=Path, help="write it there; default: standard output")


def run(arguments: argparse.Namespace) -> int:
    """Write the statement; return 0."""
    text = statement(config_of(arguments))
    if arguments.output is None:
        print(text, end="")
        return 0
    try:
        Path(arguments.output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError("--output", f"{arguments.output} cannot be written: {error.strerror}") from error
    return 0
