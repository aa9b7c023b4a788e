"""A PostgreSQL of the tests' own: on a free port, in a temporary folder, stopped at the end."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import asyncpg
import msgspec
import pytest

PASSWORD = "correct horse"
_PATIENCE_S = 20.0
_PROGRAMS = ("/usr/local/bin", *(str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)))


class Postgres(msgspec.Struct):
    """A server that answers at `url`; one that is ours can be stopped and started."""

    url: str
    folder: Path | None = None
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Have it answer."""
        assert self.folder is not None
        command = [program("postgres"), "-D", str(self.folder / "data"), "-p", str(self.port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.folder}"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([*as_user("postgres"), *command], stdout=subprocess.DEVNULL, stderr=log)
        until(lambda: answers(self.url), self.folder / "log")

    def stop(self) -> None:
        """Have it gone, without waiting for those who are connected."""
        if self.process is not None:
            self.process.send_signal(2)  # SIGINT: fast shutdown
            self.process.wait(_PATIENCE_S)
            self.process = None


def answers(url: str) -> bool:
    """Tell whether a client gets in; in a thread, because a test may be in the middle of its own event loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _answers(url)).result()


async def _answers(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url, timeout=2, statement_cache_size=0)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    connection.terminate()
    return True


def program(name: str) -> str:
    """Return where `name` of PostgreSQL is. Raises: FileNotFoundError."""
    found = shutil.which(name, path=os.pathsep.join(_PROGRAMS)) or shutil.which(name)
    if found is None:
        raise FileNotFoundError(name)
    return found


def as_user(name: str) -> list[str]:
    """Return what stands before a command that refuses to run as root."""
    return ["setpriv", f"--reuid={name}", "--clear-groups", "--"] if os.getuid() == 0 else []


def free_port() -> int:
    """Return a port of loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(true: Callable[[], bool], log: Path) -> None:
    """Wait until `true()`, or fail with what the server said."""
    ends = time.monotonic() + _PATIENCE_S
    while not true():
        if time.monotonic() > ends:
            raise AssertionError(f"does not answer: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)


@contextmanager
def running(settings: Sequence[str] = (), *, own: bool = False) -> Iterator[Postgres]:
    """Have a server: ours with `settings`, or DICOMNODE_TEST_POSTGRES_URL's unless it must be our `own`; else skip."""
    if (url := os.environ.get("DICOMNODE_TEST_POSTGRES_URL")) and not own:
        yield Postgres(url)
        return
    try:
        program("initdb"), program("postgres")
    except FileNotFoundError as error:
        pytest.skip(f"the database plugin postgres was not tested: no {error} here (scripts/peers installs it)")
    with tempfile.TemporaryDirectory(prefix="dicomnode-postgres-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        (folder / "data").mkdir(mode=0o700)
        if os.getuid() == 0:
            shutil.chown(folder, "postgres")
            shutil.chown(folder / "data", "postgres")
        told = ["-U", "postgres", "--no-sync", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]
        told.append(f"--pwfile={folder / 'password'}")
        subprocess.run(
            [*as_user("postgres"), program("initdb"), "-D", str(folder / "data"), *told],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        with (folder / "data" / "postgresql.conf").open("a") as config:
            config.writelines(f"{line}\n" for line in ("fsync = off", *settings))
        port = free_port()
        server = Postgres(
            f"postgresql://postgres:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{port}/postgres", folder, port
        )
        try:
            server.start()
            yield server
        finally:
            server.stop()


_schemas = count(1)


def options(port: str, server: Postgres) -> dict[str, object]:
    """Return options with a schema that nobody has used."""
    return {"url": server.url, "schema": f"test_{os.getpid()}_{next(_schemas)}"}
