"""One way to open a DuckDB file, and one to tell what went wrong with it.

The driver costs some 35 MB of memory and a quarter of a second, so it is imported only where a file is opened.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicomnode.errors import ConfigError, Corrupt, Full, PluginError, PluginMissing, Unavailable

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

OPTION = "warehouse.options.path"
_NO_ROOM = ("No space left", os.strerror(errno.EDQUOT), "could not allocate block", "max_temp_directory_size")
_CONTRADICTED = ("DataError", "IntegrityError", "ProgrammingError")


def opened(path: Path, memory_mib: int, threads: int) -> DuckDBPyConnection:
    """Return a connection to the file at `path`, made if it was not there. Raises: ConfigError, Unavailable, Full."""
    try:
        import duckdb  # noqa: PLC0415 -- see above
    except ModuleNotFoundError as error:
        raise PluginMissing("warehouse.use", "'duckdb' needs duckdb", "pip install duckdb") from error
    config: dict[str, Any] = {
        "threads": threads,
        "memory_limit": f"{memory_mib}MiB",
        "preserve_insertion_order": False,  # no question relies on it, and keeping it costs memory
        "python_enable_replacements": False,
        "autoinstall_known_extensions": False,  # nothing is fetched from anywhere
        "autoload_known_extensions": False,
    }
    try:
        return duckdb.connect(path, config=config)
    except duckdb.Error as error:
        raise _not_opened(error, path) from error


def _not_opened(error: Exception, path: Path) -> ConfigError | PluginError:
    """Return what to raise where `path` cannot be opened: what the operator must do."""
    text = str(error)
    if "Could not set lock" in text:
        return Unavailable("duckdb", f"{path} is in use by another process (stop that, or set {OPTION})")
    if "Cannot open file" in text or "is a directory" in text.lower():
        return ConfigError(OPTION, f"{path} cannot be opened for writing", "see its owner and mode, and its folder's")
    if "with version number" in text:
        return ConfigError(OPTION, f"{path} was written by a newer DuckDB", "pip install --upgrade duckdb")
    if _is_no_room(text):
        return Full("duckdb", "no room is left for the warehouse file")
    if type(error).__name__ == "OutOfMemoryException":
        return told(error)
    return ConfigError(
        OPTION, f"{path} is damaged or no DuckDB file", "move it away with its .wal; see docs/warehouse.md"
    )


def driver_error() -> type[Exception]:
    """Return the class of all errors of the driver."""
    import duckdb  # noqa: PLC0415 -- see above

    return duckdb.Error


def told(error: Exception) -> PluginError:
    """Return what to raise for a failure at work. Never quotes values."""
    name = type(error).__name__
    if _is_no_room(str(error)):
        return Full("duckdb", "no room is left for the warehouse file")
    if name == "OutOfMemoryException":
        return Unavailable("duckdb", "more memory is needed than warehouse.options.memory_mib allows")
    if "Corrupt database file" in str(error):
        return Unavailable("duckdb", "the warehouse file is damaged; stop the node and move it away")
    if any(kind.__name__ in _CONTRADICTED for kind in type(error).__mro__):
        # It would fail in the same way each time, and whoever waits for better times would wait for ever.
        return Corrupt("duckdb", f"what was to be recorded or asked does not fit the tables ({name})")
    return Unavailable("duckdb", f"the warehouse file failed: {name}")


def is_fatal(error: Exception) -> bool:
    """Tell whether the file must be opened anew before anything else can be done with it."""
    return type(error).__name__ in ("FatalException", "InternalException") or "has been invalidated" in str(error)


def _is_no_room(text: str) -> bool:
    return any(sign in text for sign in _NO_ROOM)
