"""Fuzzes one reader with atheris, which is not among the test dependencies: ``pip install atheris``.

    python -m tests.fuzz TARGET CORPUS -dict=tests/fuzz/json.dict -max_total_time=600

TARGET is header, tokenizer, harmony or session; libFuzzer's options follow CORPUS, a directory that keeps inputs
which reached new code. An input that raises is printed and written to ``crash-…``; shrink it with
``-minimize_crash=1`` and add it to ``tests/data/fuzz/TARGET``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["gptoss_mlx"]):
    from tests.fuzz.targets import TARGETS, seeds


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    name, corpus = sys.argv[1], Path(sys.argv[2])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(content)
    # In memory if possible: a run writes millions of files.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:
        target = TARGETS[name]

        def once(content: bytes) -> None:
            target(content, Path(place))

        atheris.Setup([sys.argv[0], str(corpus), *sys.argv[3:]], once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
