"""What is fuzzed, by name. A target takes any bytes; whatever it raises is a fault of ours."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz import association, objects

TARGETS: dict[str, Callable[[bytes], None]] = {
    "pdus": association.pdus,
    "request": association.request,
    "acceptance": association.acceptance,
    "command_set": association.command_set,
    "header": objects.header,
    "metadata": objects.metadata,
    "identifier": objects.identifier,
    "pixels": objects.pixels,
    "file": objects.file,
    "multipart": objects.multipart,
    "question": objects.question,
    "charset": objects.charset,
}
