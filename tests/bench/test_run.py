"""What a turn leaves behind for the next one."""

from __future__ import annotations

from pathlib import Path

from bench.run import empty


def test_files_are_emptied_and_stay(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept")
    folder = tmp_path / "turn"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "object").write_bytes(b"x" * 5000)
    (folder / "link").symlink_to(outside)
    empty(folder)
    assert (folder / "a" / "b" / "object").read_bytes() == b""
    assert outside.read_text() == "kept"
