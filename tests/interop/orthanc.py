"""An Orthanc, and its REST interface, by which it is told to ask other nodes."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.interop.places import HOST, Place, free_port, serving


class Orthanc:
    """One that runs at `place`."""

    def __init__(self, place: Place, web: int) -> None:
        self.place = place
        self._url = f"http://{HOST}:{web}"

    def get(self, path: str) -> bytes:
        return self._ask(urllib.request.Request(self._url + path))

    def ask(self, path: str, body: Any, method: str = "POST") -> Any:
        """Send `body`, bytes as they are or anything else as JSON. Raises: AssertionError, with Orthanc's own words."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return json.loads(self._ask(urllib.request.Request(self._url + path, data, method=method)) or b"null")

    def json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def knows(self, name: str, place: Place) -> None:
        """Tell it of a node."""
        # 1.10 retrieves by C-MOVE; what it may ask of whom is told in full.
        modality = {"AET": place.aet, "Host": HOST, "Port": place.port, "UseDicomTls": place.tls is not None}
        self.ask(f"/modalities/{name}", modality, "PUT")

    def _ask(self, request: urllib.request.Request) -> bytes:
        try:
            with urllib.request.urlopen(request, timeout=50) as reply:
                body: bytes = reply.read()
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{request.full_url}: {error.code} {error.read()!r}") from None
        return body


@contextmanager
def orthanc(folder: Path, place: Place | None = None, **more: Any) -> Iterator[Orthanc]:
    """Have one run, at `place` or anywhere; `more` are keys of its configuration."""
    place, web = place or Place("ORTHANC", free_port()), free_port()
    config = {
        "DicomAet": place.aet,
        "DicomPort": place.port,
        "HttpPort": web,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
        "UnknownSopClassAccepted": True,
        "SynchronousCMove": True,
        "Plugins": [],
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(config | more))
    with serving(["Orthanc", str(path)], web, folder / "log"):
        yield Orthanc(place, web)
