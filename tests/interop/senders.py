"""Programs that nobody here wrote, as they are told to echo and to send."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydicom import uid

from tests.interop.objects import Sample
from tests.interop.places import HOST, QUICK, Certificate, Place

_ROOT = Path(__file__).parent.parent.parent
DCMJS_MODULES = _ROOT / ".peers" / "dcmjs" / "node_modules"
DCMJS = Path(__file__).parent / "dcmjs"
_ZSTD_DEFLATED = "1.2.840.10008.1.2.8.1"
_HTJ2K = {str(uid.HTJ2KLossless), str(uid.HTJ2K)}

# How dcmtk 3.6.7's storescu is told to propose a transfer syntax; what it does not know it cannot send.
_STORESCU = {
    "1.2.840.10008.1.2": "-xi",
    "1.2.840.10008.1.2.1": "-xe",
    "1.2.840.10008.1.2.2": "-xb",
    "1.2.840.10008.1.2.1.99": "-xd",
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.51": "-xx",
    "1.2.840.10008.1.2.4.70": "-xs",
    "1.2.840.10008.1.2.4.80": "-xt",
    "1.2.840.10008.1.2.4.81": "-xu",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.4.91": "-xw",
    "1.2.840.10008.1.2.5": "-xr",
}

DCMTK = frozenset(_STORESCU)


class Told(msgspec.Struct, frozen=True):
    """What a program says of its own doing: whether it went well, and its words."""

    well: bool
    words: str


class Sender(msgspec.Struct, frozen=True):
    """A program. `cannot` are the transfer syntaxes it cannot send, whoever receives."""

    needs: tuple[str, ...]
    echo: Callable[[Place], Told] | None
    store: Callable[[Place, Sample], Told] | None
    cannot: frozenset[str] = frozenset()

    @property
    def marks(self) -> list[pytest.MarkDecorator]:
        """What skips a test where the program is not installed."""
        return [pytest.mark.external(*self.needs)] + [needs_dcmjs] * ("node" in self.needs)


needs_dcmjs = pytest.mark.skipif(
    not DCMJS_MODULES.is_dir(), reason="not tested beside dcmjs-dimse: it is not installed (scripts/peers installs it)"
)


def run(
    command: Sequence[str], env: Mapping[str, str] = QUICK, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, timeout=50, env=env, cwd=cwd
    )


def _by_exit_code(command: Sequence[str], *bad: str, cwd: Path | None = None) -> Told:
    """Tell that it went well if the exit code is 0 and none of `bad` is said."""
    done = run(command, cwd=cwd)
    words = done.stdout + done.stderr
    return Told(done.returncode == 0 and not any(one in words for one in bad), words)


def dcmtk_tls(place: Place) -> list[str]:
    tls: Certificate | None = place.tls
    return [] if tls is None else ["+tls", str(tls.key), str(tls.cert), "+cf", str(tls.ca)]


def _echoscu(place: Place) -> Told:
    return _by_exit_code(["echoscu", *dcmtk_tls(place), "-aec", place.aet, HOST, str(place.port)])


def _storescu(place: Place, sample: Sample) -> Told:
    propose = _STORESCU[sample.transfer_syntax]
    words = ["storescu", *dcmtk_tls(place), "-aec", place.aet, propose, HOST, str(place.port), str(sample.path)]
    return _by_exit_code(words)


def _dcmsend(place: Place, sample: Sample) -> Told:
    words = ["dcmsend", "-aec", place.aet, "-dn", HOST, str(place.port), str(sample.path)]
    return _by_exit_code(words)


def pynetdicom(app: str, place: Place, *more: str, cwd: Path | None = None) -> Told:
    """Run one of pynetdicom's applications, which end with 0 whatever became of it."""
    words = [sys.executable, "-W", "ignore", "-m", "pynetdicom", app, HOST, str(place.port), "-aec", place.aet, *more]
    return _by_exit_code(words, "E: ", cwd=cwd)


def _pynetdicom_storescu(place: Place, sample: Sample) -> Told:
    return pynetdicom("storescu", place, "-cx", str(sample.path))


def gdcm(place: Place, *more: str) -> Told:
    """Run gdcmscu. That of Debian 12 dies of an exception of its own after each release, whoever the peer is."""
    done = run(["gdcmscu", "-H", HOST, "-p", str(place.port), "--call", place.aet, *more])
    died_at_the_end = done.returncode == -6 and "ProtocolStream as nullptr is invalid" in done.stderr
    return Told(done.returncode == 0 or died_at_the_end, done.stdout + done.stderr)


def _gdcm_echo(place: Place) -> Told:
    return gdcm(place, "--echo")


def _gdcm_store(place: Place, sample: Sample) -> Told:
    return gdcm(place, "--store", "-i", str(sample.path))


def _odil_echo(place: Place) -> Told:
    return _by_exit_code(["odil", "echo", HOST, str(place.port), "ODIL", place.aet])


def _odil_store(place: Place, sample: Sample) -> Told:
    command = ["odil", "store", HOST, str(place.port), "ODIL", place.aet, str(sample.path)]
    return _by_exit_code(command, "Could not store")


def _ctn_echo(place: Place) -> Told:
    return _by_exit_code(["dicom_echo", "-a", "CTN", "-c", place.aet, HOST, str(place.port)])


def _ctn_store(place: Place, sample: Sample) -> Told:
    words = ["-a", "CTN", "-c", place.aet, "-q", "-r", "-X", sample.transfer_syntax]
    return _by_exit_code(["send_image", *words, HOST, str(place.port), str(sample.path)])


def dcmjs(place: Place, *requests: dict[str, Any], **more: Any) -> tuple[list[dict[str, Any]], str]:
    """Have dcmjs-dimse ask `requests` over one association; return its answers and all of its words."""
    tls = place.tls and {key: str(getattr(place.tls, key)) for key in ("key", "cert", "ca")}
    job = {"host": HOST, "port": place.port, "called": place.aet, "tls": tls, "requests": requests} | more
    env = os.environ | {"NODE_PATH": str(DCMJS_MODULES)}
    done = run(["node", str(DCMJS / "scu.cjs"), json.dumps(job)], env=env)
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return answers, done.stdout + done.stderr


def _dcmjs_well(place: Place, request: dict[str, Any]) -> Told:
    answers, words = dcmjs(place, request)
    return Told(answers == [{"status": 0}, {"ended": "released"}], words)


def _dcmjs_echo(place: Place) -> Told:
    return _dcmjs_well(place, {"kind": "echo"})


def _dcmjs_store(place: Place, sample: Sample) -> Told:
    request = {"file": str(sample.path), "sopClass": sample.sop_class, "syntax": sample.transfer_syntax}
    return _dcmjs_well(place, {"kind": "store"} | request)


NATIVE = frozenset(map(str, (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)))
_ALL = {*_STORESCU, *_HTJ2K, _ZSTD_DEFLATED}

SENDERS = {
    "echoscu": Sender(("echoscu",), _echoscu, None),
    "storescu": Sender(("storescu",), None, _storescu, frozenset(_ALL - _STORESCU.keys())),
    "dcmsend": Sender(("dcmsend",), None, _dcmsend, frozenset(_ALL - _STORESCU.keys())),
    "pynetdicom": Sender((), lambda place: pynetdicom("echoscu", place), _pynetdicom_storescu),
    "gdcm": Sender(("gdcmscu",), _gdcm_echo, _gdcm_store, frozenset({*_HTJ2K, _ZSTD_DEFLATED})),
    # It proposes no compressed transfer syntax, and sends what is compressed as if it were not.
    "odil": Sender(("odil",), _odil_echo, _odil_store, frozenset(_ALL - NATIVE)),
    # It reads no deflated file, and dies of fragments of odd length.
    "ctn": Sender(
        ("dicom_echo", "send_image"),
        _ctn_echo,
        _ctn_store,
        frozenset({str(uid.DeflatedExplicitVRLittleEndian), str(uid.JPEGExtended12Bit), _ZSTD_DEFLATED}),
    ),
    # It does not deflate what it calls deflated.
    "dcmjs": Sender(("node",), _dcmjs_echo, _dcmjs_store, frozenset({str(uid.DeflatedExplicitVRLittleEndian)})),
}
