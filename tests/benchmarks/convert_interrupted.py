"""The long run of ``tests/convert/test_safety.py``: hundreds of kills and disk errors.

    python -m tests.benchmarks.convert_interrupted [--kills 200]

1. A running conversion is killed with SIGKILL at random moments.
2. It is killed before and after every sync and every rename.
3. Every call that changes the disk fails once with ENOSPC, with EIO and with EROFS.

After each, the target does not exist or is the expected one byte for byte, and a rerun ends byte-identical and
leaves nothing else. Prints the counts; a violation is an assertion that stops the run.
"""

from __future__ import annotations

import argparse
import collections
import errno
import itertools
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from gptoss_mlx.convert import convert_checkpoint
from gptoss_mlx.errors import GptOssError, NotEnoughDisk
from tests.convert.faults import CALLS, faulty
from tests.convert.sources import write_layout
from tests.forks import begin, end_of, in_fork

_KILLED_AT = ("fsync", "rename", "replace")


class Runs:
    """Conversions of a source in child processes, and checks of what they left."""

    def __init__(self, place: Path) -> None:
        self.source = place / "source"
        self.target = place / "work" / "out"
        self.target.parent.mkdir()
        shape: dict[str, Any] = {
            "num_hidden_layers": 3,
            "hidden_size": 256,
            "intermediate_size": 256,
            "vocab_size": 4096,
        }
        # In a child: the children of a process that used MLX cannot use it.
        assert in_fork(lambda: _write_source(self.source, shape)) == 0
        self.seconds = 0.0
        self.expected = self._rerun()

    def _rerun(self) -> dict[str, bytes]:
        began = time.perf_counter()
        assert in_fork(self.convert) == 0
        self.seconds = time.perf_counter() - began
        contents = {path.name: path.read_bytes() for path in self.target.iterdir()}
        assert [path.name for path in self.target.parent.iterdir()] == ["out"]
        shutil.rmtree(self.target)
        return contents

    def convert(self) -> None:
        """One conversion."""
        convert_checkpoint(self.source, self.target, dense="q8")

    def check(self) -> str:
        """Asserts that what a killed conversion left is allowed and that a rerun repairs it; says what it left."""
        found = "nothing"
        if self.target.exists():
            assert {path.name: path.read_bytes() for path in self.target.iterdir()} == self.expected
            shutil.rmtree(self.target)
            found = "the whole target"
        elif any(self.target.parent.iterdir()):
            found = "no target, temporary files"
        assert self._rerun() == self.expected
        return found

    def check_unhurt(self, code: int) -> None:
        """Checks a conversion that no fault hit, because there were no more calls."""
        assert code == 0
        assert self.check() == "the whole target"


def _write_source(directory: Path, shape: dict[str, Any]) -> None:
    write_layout("hf", directory, **shape)


def random_kills(runs: Runs, kills: int, rng: random.Random) -> collections.Counter[str]:
    """Sends SIGKILL at moments spread over a conversion, from its first trace on the disk to its end.

    A conversion that ended before its moment is repeated, so that every kill hits a running one.
    """
    found: collections.Counter[str] = collections.Counter()
    while found.total() < kills:
        child = begin(runs.convert)
        while not any(runs.target.parent.iterdir()):
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, runs.seconds))
        os.kill(child, signal.SIGKILL)
        killed = end_of(child) == -signal.SIGKILL
        left = runs.check()
        if killed:
            found[f"killed: {left}"] += 1
    return found


def kills_at_calls(runs: Runs) -> collections.Counter[str]:
    """Sends SIGKILL before and after every sync and rename."""
    found: collections.Counter[str] = collections.Counter()
    for after in (False, True):
        for at in itertools.count(1):
            code = in_fork(lambda at=at, after=after: _die_at(runs, at, after))  # type: ignore[misc]
            if code != -signal.SIGKILL:
                runs.check_unhurt(code)
                break
            found[("after: " if after else "before: ") + runs.check()] += 1
    return found


def _die_at(runs: Runs, at: int, after: bool) -> None:
    with faulty(at, lambda: os.kill(os.getpid(), signal.SIGKILL), _KILLED_AT, after=after):
        runs.convert()


def failing_calls(runs: Runs, number: int) -> collections.Counter[str]:
    """Makes every call that changes the disk fail once with ``number``."""
    found: collections.Counter[str] = collections.Counter()
    for at in itertools.count(1):
        code = in_fork(lambda at=at: _fail_at(runs, at, number))  # type: ignore[misc]
        if code != 1:
            runs.check_unhurt(code)
            break
        what = runs.check()
        assert what != "no target, temporary files"
        found[f"{errno.errorcode[number]}: {what}"] += 1
    return found


def _fail_at(runs: Runs, at: int, number: int) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    try:
        with faulty(at, fail, CALLS):
            runs.convert()
    except GptOssError as error:
        _check_error(error, number)
        raise


def _check_error(error: GptOssError, number: int) -> None:
    assert "\n" not in str(error)
    assert number != errno.ENOSPC or isinstance(error, NotEnoughDisk)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        runs = Runs(Path(place))
        print(f"one conversion: {runs.seconds:.3f} s, {sum(map(len, runs.expected.values()))} bytes", flush=True)
        print("random moments:", dict(random_kills(runs, options.kills, random.Random(options.seed))), flush=True)
        print("syncs and renames:", dict(kills_at_calls(runs)), flush=True)
        for number in (errno.ENOSPC, errno.EIO, errno.EROFS):
            print(f"{os.strerror(number)}: {dict(failing_calls(runs, number))}", flush=True)


if __name__ == "__main__":
    main()
