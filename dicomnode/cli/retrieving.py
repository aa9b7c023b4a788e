"""How far a retrieval is: shown while it goes on, and summed up at its end."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dicomnode.dimse import peer

_LISTED = 20


async def followed(going: AsyncGenerator[peer.Progress, None], what: str) -> peer.Progress | None:
    """Show a bar on standard error, if that is a terminal, and return how it ended; None when it did not."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    last = None
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        async with aclosing(going) as reports:
            async for progress in reports:
                done = progress.completed + progress.warning + progress.failed
                bar.update(task, completed=done, total=done + progress.remaining or None)
                last = progress
    return last


def report(last: peer.Progress | None, *, as_json: bool) -> int:
    """Print the summary; return the exit code: 0 where the peer says success."""
    if last is None:
        return 1
    if as_json:
        told = {
            "status": last.status,
            "completed": last.completed,
            "warnings": last.warning,
            "failed": last.failed,
            "remaining": last.remaining,
            "failed_uids": last.failed_uids,
            "comment": last.error_comment,
        }
        print(json.dumps(told))
        return 0 if last.status == 0 else 1
    done = last.completed + last.warning
    print(f"{done} sent ({last.warning} with a warning), {last.failed} failed; the peer ended with {last.status:#06x}")
    if last.error_comment:
        print(f"  {last.error_comment!r}")
    for uid in last.failed_uids[:_LISTED]:
        print(f"  failed: {uid}")
    return 0 if last.status == 0 else 1
