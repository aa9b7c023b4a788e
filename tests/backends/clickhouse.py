"""ClickHouse for the tests: today's engine behind an HTTP front of ours, and Debian's server of 2018 for the wire.

No server of today can be had from Debian or from Python's packages; chDB is its engine without a listener. So the SQL
is proven on the one, and the protocol (authentication, compression, errors, limits) on the other.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from urllib.request import urlopen

import msgspec
import pytest

from tests.backends.postgres import free_port, until

USER, KEY = "recorder", "correct horse"
_PATIENCE_S = 20.0
_ROOT = Path(__file__).parents[2]
_PYTHON = _ROOT / ".peers" / "servers" / "bin" / "python"
_databases = count(1)

_USERS = """<yandex>
<profiles><default><max_memory_usage>200000000</max_memory_usage></default></profiles>
<users><{user}><password>{key}</password><networks><ip>127.0.0.1</ip></networks>
<profile>default</profile><quota>default</quota></{user}></users>
<quotas><default/></quotas>
</yandex>"""
_CONFIG = """<yandex>
<logger><level>warning</level><log>{folder}/log</log><errorlog>{folder}/errors</errorlog></logger>
<listen_host>127.0.0.1</listen_host><http_port>{port}</http_port><tcp_port>{tcp}</tcp_port>
<path>{data}/</path><tmp_path>{data}/tmp/</tmp_path><users_config>{folder}/users.xml</users_config>
<default_profile>default</default_profile><default_database>default</default_database>
<mark_cache_size>5368709</mark_cache_size>
</yandex>"""


class Server(msgspec.Struct):
    """A server that answers at `port`; it can be stopped and started."""

    command: list[str]
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def url(self, database: str, *, user: str = USER, key: str = KEY) -> str:
        """Return the url of `database` there."""
        return f"clickhouse+http://{user}:{key.replace(' ', '%20')}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Have it answer."""
        with (self.folder / "told").open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        until(self._answers, self.folder / "told")

    def _answers(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=1) as answer:
                return bool(answer.read().startswith(b"Ok"))
        except OSError:
            return False

    def stop(self) -> None:
        """Have it gone, without a chance to finish."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(_PATIENCE_S)
            self.process = None


@contextmanager
def running(*, own: bool = False) -> Iterator[Server | str]:
    """Have today's engine, or, unless it must be our `own`, the server at DICOMNODE_TEST_CLICKHOUSE_URL; else skip."""
    if (url := os.environ.get("DICOMNODE_TEST_CLICKHOUSE_URL")) and not own:
        yield url.rstrip("/")
        return
    if not _PYTHON.exists():
        pytest.skip("the warehouse plugin clickhouse was not tested: no chdb in .peers/servers (scripts/peers servers)")
    with tempfile.TemporaryDirectory(prefix="dicomnode-chdb-") as name:
        port = free_port()
        command = [str(_PYTHON), str(Path(__file__).with_name("serve_chdb.py")), name, str(port), USER, KEY]
        server = Server(command, Path(name), port)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def of_2018(data: Path | None = None) -> Iterator[Server]:
    """Have Debian's server, its tables in `data`; skip where it is not installed."""
    program = shutil.which("clickhouse-server") or shutil.which("/usr/sbin/clickhouse-server")
    if program is None:
        pytest.skip("ClickHouse's own HTTP interface was not tested: no clickhouse-server (scripts/peers installs it)")
    with tempfile.TemporaryDirectory(prefix="dicomnode-clickhouse-") as name:
        folder, port = Path(name), free_port()
        data = data or folder / "data"
        (data / "tmp").mkdir(parents=True, exist_ok=True)
        (folder / "users.xml").write_text(_USERS.format(user=USER, key=KEY))
        (folder / "config.xml").write_text(_CONFIG.format(folder=folder, data=data, port=port, tcp=free_port()))
        server = Server([program, f"--config-file={folder / 'config.xml'}"], folder, port)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def options(port: str, server: Server | str) -> dict[str, object]:
    """Return options with a database that nobody has used."""
    database = f"test_{os.getpid()}_{next(_databases)}"
    return {"url": f"{server}/{database}" if isinstance(server, str) else server.url(database)}
