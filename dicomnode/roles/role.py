"""What a role is to the node."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol


class Role(Protocol):
    """A door or a worker. Entering binds its socket or subscription; leaving drains it."""

    name: str

    @property
    def address(self) -> str:
        """Return where the role can be reached, as a person would write it; empty for one that cannot."""

    async def __aenter__(self) -> Any: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...

    async def run(self) -> None:
        """Work until cancelled. Any other end is a failure of the whole node."""
