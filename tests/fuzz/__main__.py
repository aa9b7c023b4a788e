"""Run one fuzzer: `python -m tests.fuzz header --seconds 3600`.

What it learns is kept in the corpus folder (default `.fuzz/TARGET`) for the next time. An input that makes the target
fail is written to `FOLDER/crash-…` (or `timeout-…`, `oom-…`), and told in base64; run with that file to see it again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import atheris

from tests.fuzz import seeds
from tests.fuzz.seeds import SEEDS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=sorted(SEEDS))
    parser.add_argument("file", nargs="*", type=Path, help="inputs to run once, instead of fuzzing")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--folder", type=Path, help="of the corpus and of what is found")
    asked = parser.parse_args()
    folder = asked.folder or Path(".fuzz") / asked.target
    seeds.write(asked.target, folder / "corpus")
    with atheris.instrument_imports(include=["dicomnode", "tests.fuzz"], enable_loader_override=False):
        _forget()
        from tests.fuzz.targets import TARGETS
    words = [
        *(f"-max_total_time={asked.seconds}", "-max_len=8192", "-timeout=20", "-rss_limit_mb=2048"),
        *(f"-artifact_prefix={folder}/", "-print_final_stats=1"),
        *(map(str, asked.file) if asked.file else [str(folder / "corpus")]),
    ]
    atheris.Setup([sys.argv[0], *words], TARGETS[asked.target])
    atheris.Fuzz()


def _forget() -> None:
    """Let what the seeds are made with be imported again, this time with eyes in it."""
    for name in [name for name in sys.modules if name.split(".")[0] == "dicomnode" or name.startswith("tests.fuzz.")]:
        if name not in ("tests.fuzz.seeds",):
            del sys.modules[name]


if __name__ == "__main__":
    main()
