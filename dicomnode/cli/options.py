"""The options that every command has, and how they become a configuration."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from dicomnode.config import Config
from dicomnode.config_file import read_config


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command has."""
    group = parser.add_argument_group("configuration")
    group.add_argument("--config", metavar="FILE", type=Path, help="default: $DICOMNODE_CONFIG, else ./config.toml")
    group.add_argument(
        "--set", metavar="TABLE.KEY=VALUE", action="append", default=[], dest="sets", help="change one key; repeatable"
    )
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")


def config_of(arguments: argparse.Namespace) -> Config:
    """Return the configuration that the options name. Raises: Faults."""
    return read_config(_file(arguments), arguments.sets)


def _file(arguments: argparse.Namespace) -> Path | None:
    if arguments.config:
        return Path(arguments.config)
    if named := os.environ.get("DICOMNODE_CONFIG"):
        return Path(named)
    here = Path("config.toml")
    return here if here.exists() else None
