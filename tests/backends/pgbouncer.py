"""A PgBouncer in transaction mode before a PostgreSQL of the tests."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.backends.postgres import PASSWORD, Postgres, answers, as_user, free_port, until


@contextmanager
def running(server: Postgres) -> Iterator[str]:
    """Have the url of a PgBouncer before `server`; skip where there is none."""
    if shutil.which("pgbouncer") is None:
        pytest.skip("the database plugin postgres was not tested through pgbouncer (scripts/peers installs it)")
    with tempfile.TemporaryDirectory(prefix="dicomnode-pgbouncer-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        port = free_port()
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\npostgres = host=127.0.0.1 port={server.port} user=postgres password='{PASSWORD}'"
            f"\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\nunix_socket_dir =\n"
            "pool_mode = transaction\ndefault_pool_size = 4\n"
        )
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*as_user("nobody"), "pgbouncer", str(folder / "pgbouncer.ini")], stdout=log, stderr=log
            )
        try:
            url = f"postgresql://anyone@127.0.0.1:{port}/postgres"
            until(lambda: answers(url), folder / "log")
            yield url
        finally:
            process.terminate()
            process.wait(20)
