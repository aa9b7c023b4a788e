"""argv -> Config -> exit code: 0 done, 1 failed, 2 usage or configuration. Errors are one line with a hint."""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from dicomnode import __version__, log
from dicomnode.cli.options import add_common
from dicomnode.config_file import Faults
from dicomnode.errors import ConfigError, NodeError

# Name -> module and one line of help; a module is imported only when its command is called.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("dicomnode.cli.run", "start the node: all roles, unless some are named"),
    "check": ("dicomnode.cli.check", "report every fault of the configuration, then ping each backend"),
    "plugins": ("dicomnode.cli.plugins", "list the plugins that are installed"),
    "import": ("dicomnode.cli.import_files", "take in files, folders, ZIPs or DICOMDIRs"),
    "echo": ("dicomnode.cli.echo", "ask a peer whether it is there (C-ECHO)"),
    "store": ("dicomnode.cli.store", "send files to a peer (C-STORE)"),
    "find": ("dicomnode.cli.find", "ask a peer what it has (C-FIND)"),
    "get": ("dicomnode.cli.get", "fetch objects from a peer into a folder (C-GET)"),
    "move": ("dicomnode.cli.move", "have a peer send objects to an AE title (C-MOVE)"),
    "commit": ("dicomnode.cli.commit", "ask a peer whether it keeps objects (storage commitment)"),
    "worklist": ("dicomnode.cli.worklist", "ask a peer what is scheduled (Modality Worklist)"),
    "passcode": ("dicomnode.cli.passcode", "print a passcode as [users] should keep it"),
    "warehouse": ("dicomnode.cli.warehouse", "count what was received and asked for; print the tables' statements"),
    "sweep": ("dicomnode.cli.sweep", "index again what storage has and the database lacks"),
    "conformance": ("dicomnode.cli.conformance.command", "write the DICOM conformance statement of this configuration"),
    "fsck": ("dicomnode.cli.fsck", "compare storage and database, both ways"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` names; return its exit code."""
    if argv is None:
        log.set_up("auto", "warning")  # standard output is for answers
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in COMMANDS:
        return _outer(words)
    module = importlib.import_module(COMMANDS[words[0]][0])
    parser = _parser(words[0], module)
    arguments = parser.parse_args(words[1:])
    try:
        return int(module.run(arguments))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:  # noqa: BLE001 -- the last door: nobody sees a traceback who did not ask for one
        if arguments.debug:
            traceback.print_exc()
        return _told(error)


def _outer(words: Sequence[str]) -> int:
    lines = "\n".join(f"  {name:<11} {line}" for name, (_, line) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="dicomnode",
        description="A whole DICOM node in one process: receive, keep, find and serve medical images.",
        epilog=f"commands:\n{lines}\n\n`dicomnode COMMAND --help` tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="dicomnode COMMAND …",
    )
    parser.add_argument("--version", action="version", version=f"dicomnode {__version__}")
    _, rest = parser.parse_known_args(words)
    if rest:
        parser.error(f"there is no command {rest[0]!r}; known: {', '.join(COMMANDS)}")
    parser.print_help()
    return 2


def _parser(name: str, module: ModuleType) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"dicomnode {name}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    add_common(parser)
    return parser


def _told(error: Exception) -> int:
    """Say what went wrong, a line a fault; return the exit code."""
    if isinstance(error, Faults):
        for fault in error.all:
            print(f"dicomnode: {fault}", file=sys.stderr)
        return 2
    if isinstance(error, NodeError):
        print(f"dicomnode: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    print(f"dicomnode: a fault of dicomnode itself: {type(error).__name__} (--debug shows where)", file=sys.stderr)
    return 1
