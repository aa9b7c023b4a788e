"""Run OpenStack Swift with its S3 door, by the Python that it is installed for: `python serve_swift.py FOLDER PORT`.

One process that forks the four servers, so that what they have in common is imported once. They end with it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from importlib import import_module
from pathlib import Path

_STORES = ("account", "container", "object")
_PIPELINE = "catch_errors gatekeeper healthcheck listing_formats s3api tempauth bulk slo dlo copy versioned_writes"
_PROXY = f"""
[pipeline:main]
pipeline = {_PIPELINE} proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
node_timeout = 20
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:s3api]
use = egg:swift#s3api
max_bucket_listing = 25
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _configure(folder: Path, port: int) -> dict[str, Path]:
    """Write rings and configuration below `folder`; return the file of each server."""
    builder = import_module("swift.common.ring").RingBuilder
    (folder / "devices" / "d1").mkdir(parents=True, exist_ok=True)
    (folder / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = tests\n")
    files = {}
    for store in _STORES:
        own = _free_port()
        ring = builder(0, 1, 0)
        ring.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": own, "device": "d1", "weight": 1})
        ring.rebalance()
        ring.get_ring().save(str(folder / f"{store}.ring.gz"))
        more = f"devices = {folder / 'devices'}\nmount_check = false\ndisable_fallocate = true\n"
        what = f"[pipeline:main]\npipeline = {store}-server\n[app:{store}-server]\nuse = egg:swift#{store}\n"
        files[store] = _write(folder, store, own, more, what)
    what = _PROXY + "".join(
        f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in _PIPELINE.split() if name not in ("s3api", "tempauth")
    )
    files["proxy"] = _write(folder, "proxy", port, "", what)
    return files


def _write(folder: Path, name: str, port: int, more: str, what: str) -> Path:
    file = folder / f"{name}.conf"
    file.write_text(
        f"[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {port}\nworkers = 0\nuser = {os.environ.get('USER', 'root')}\n"
        f"swift_dir = {folder}\nlog_level = ERROR\nlog_address = {folder / 'no-log'}\n{more}{what}"
    )
    return file


def _serve(name: str, file: Path) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with who forked us, however that ends
    import_module("swift.common.wsgi").run_wsgi(str(file), f"{name}-server")


def main(folder: Path, port: int) -> None:
    """Serve until SIGTERM."""
    os.environ["SWIFT_CONF"] = str(folder / "swift.conf")
    files = _configure(folder, port)
    for name in files:
        import_module("swift.obj.server" if name == "object" else f"swift.{name}.server")
    children = []
    for name, file in files.items():
        child = os.fork()
        if child == 0:
            _serve(name, file)
            os._exit(0)
        children.append(child)

    def stop(*_: object) -> None:
        for child in children:
            os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGTERM, stop)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]))
