"""An instance at each stage of its way through the house. Values only: no I/O, no pydicom."""

from __future__ import annotations

import os
import random
import re
import time
from enum import StrEnum

import msgspec


class Door(StrEnum):
    """Where an instance came in; the word that seed systems keep in `worker_node_id`."""

    STORESCP = "DICOM_STORE_SCP"
    STOW = "STOW-RS"
    IMPORT = "IMPORT"
    SWEEP = "SWEEP"


class Arrival(msgspec.Struct, frozen=True):
    """What a door knows of an object before anyone has looked into it.

    `sop_class_uid` and `sop_instance_uid` are what the sender announced (C-STORE), `study_uid` the study it was
    sent to (STOW to a study); empty where nothing was announced.
    """

    tenant: str
    door: Door
    transfer_syntax_uid: str
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_uid: str = ""
    source_aet: str = ""
    source_ip: str = ""


class Fragments(msgspec.Struct, frozen=True):
    """The indexed attributes of one instance, by level, each a DICOM JSON object (PS3.18 F) as UTF-8 text."""

    patient: str = "{}"
    study: str = "{}"
    series: str = "{}"
    instance: str = "{}"


class Header(msgspec.Struct, frozen=True):
    """What the head of a data set says, as far as the node acts upon it.

    UIDs are as sent, without padding; `warnings` are sentences that name attributes and never their values.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    patient_id: str
    study_date: str
    accession_number: str
    number_of_frames: int
    fragments: Fragments
    warnings: tuple[str, ...] = ()


class Stored(msgspec.Struct, frozen=True):
    """An instance that is durable: its bytes are kept and its message will survive a crash."""

    key: str
    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    size: int
    warnings: tuple[str, ...] = ()


# Unique is what these must be, not secret: one seed from the system instead of a system call for each.
_random = random.Random(int.from_bytes(os.urandom(32)))  # noqa: S311
_random_bits = _random.getrandbits
os.register_at_fork(after_in_child=lambda: _random.seed(int.from_bytes(os.urandom(32))))


def receipt_id(now_ns: int | None = None) -> str:
    """Return an id of 20 characters [0-9a-v] that is unique and sorts by time of receipt (to 1 ms)."""
    milliseconds = (time.time_ns() if now_ns is None else now_ns) // 1_000_000
    return _base32(milliseconds, 10) + _base32(_random_bits(50), 10)


def receipt_of(key: str) -> str:
    """Return the receipt id that a storage key ends with; empty where it names none."""
    receipt = key[-24:-4]
    return receipt if _RECEIPT.fullmatch(receipt) and int(receipt[:10], 32) < _YEAR_10000_MS else ""


def received_ms(key: str) -> int | None:
    """Return when the object kept under `key` was received, in milliseconds since 1970; None where it does not say."""
    receipt = receipt_of(key)
    return int(receipt[:10], 32) if receipt else None


def trace_id(receipt: str) -> str:
    """Return the UUID of version 7 (RFC 9562 5.7) of a reception; it sorts as `receipt`, its receipt id, does.

    So a message that is made again from what storage has is known for the one that was made first.
    """
    number = int(receipt, 32)
    milliseconds, bits = number >> 50, number & (1 << 50) - 1
    bits = milliseconds << 80 | 0x7 << 76 | bits >> 38 << 64 | 0b10 << 62 | (bits & (1 << 38) - 1) << 24
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


_RECEIPT = re.compile("[0-9a-v]{20}")
_YEAR_10000_MS = 253_402_300_800_000


def request_id(now_ns: int) -> str:
    """Return a UUID of version 7 for something that happened at a time; those of later milliseconds sort behind it."""
    when, first, last = f"{now_ns // 1_000_000:012x}", _random_bits(12), _random_bits(62)
    return f"{when[:8]}-{when[8:]}-7{first:03x}-{last >> 48 | 0x8000:04x}-{last & 0xFFFF_FFFF_FFFF:012x}"


_DIGITS = "0123456789abcdefghijklmnopqrstuv"


_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]


def _base32(number: int, width: int) -> str:
    """Return `number` in `width` digits, an even number of them."""
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(5 * width - 10, -1, -10)])
