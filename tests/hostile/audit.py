"""Opens a corpus of hostile checkpoints and reports every forbidden event.

    python -m tests.hostile.audit PLACE

Python's audit events (PEP 578) report code that is compiled, executed or imported, pickles, processes, sockets and
every file that is opened. A good checkpoint is opened first, so that lazy imports are done; from then on no code
may be compiled and no file outside PLACE touched. Prints a JSON object: how each attempt refused each checkpoint,
the checkpoint that took most processor time, and the violations.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gptoss_mlx
from gptoss_mlx.convert import convert_checkpoint, verify_checkpoint
from gptoss_mlx.errors import GptOssError
from gptoss_mlx.hub import models as hub
from tests.hostile.corpus import CORPUS, HARMLESS, MARKER, write_good

_NEVER = (
    *("exec", "compile", "import", "code.__new__", "marshal.loads", "marshal.load", "pickle.find_class"),
    *("ctypes.dlopen", "subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn"),
    *("socket.__new__", "socket.connect", "socket.getaddrinfo", "urllib.Request"),
)
_PATHS = {
    **dict.fromkeys(["open", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.truncate"], 1),
    **dict.fromkeys(["os.rename", "os.link", "os.symlink", "shutil.move"], 2),
}
_IN_OPEN_DIRECTORY = ("os.remove", "os.rmdir")  # with a name and the descriptor of what was opened before
# Asked for the machine's memory.
_READ_ANYWHERE = ("/proc/", "/sys/", "/dev/null/")
_DEMO = f"{Path(gptoss_mlx.__file__).parent / 'demo'}/"


def attempts(directory: Path, target: Path) -> dict[str, Callable[[], object]]:
    """All ways to use a directory from a stranger."""

    def load() -> None:
        with gptoss_mlx.load(directory) as model:
            model.ask("hi", effort="low", sampling=gptoss_mlx.SamplingParams(max_tokens=2))

    return {
        "load": load,
        "convert": lambda: convert_checkpoint(directory, target, dense="q8"),
        "verify": lambda: verify_checkpoint(directory),
        "list": hub.list_models,
    }


def refusals(directory: Path, target: Path) -> dict[str, str]:
    """The error of each attempt; an untyped one ends the program."""
    found = {}
    for name, attempt in attempts(directory, target).items():
        try:
            attempt()
        except GptOssError as error:
            found[name] = str(error)
        shutil.rmtree(target, ignore_errors=True)
    return found


def main() -> None:
    """See the module."""
    place = Path(sys.argv[1]).resolve()
    os.environ["GPTOSS_DATA"] = str(place / "data")
    good, target = write_good(place / "good"), place / "target"
    changes = CORPUS | HARMLESS
    directories: dict[str, Path] = {}
    for number, (name, change) in enumerate(changes.items()):
        directories[name] = place / f"{number}"
        shutil.copytree(good, directories[name])
        change(directories[name])
    convert_checkpoint(good, place / "converted", dense="q8")
    for warm in ("good", "converted"):
        assert set(refusals(place / warm, target)) <= {"verify"}
    refusals(directories["config.json is a FIFO"], target)
    refusals(directories["the pattern is ''"], target)
    violations: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _NEVER:
            violations.append(f"{event} {str(arguments)[:200]}")
        for path in arguments[: _PATHS.get(event, 0)]:
            if not isinstance(path, str | bytes | os.PathLike):
                continue
            if event in _IN_OPEN_DIRECTORY and arguments[1] != -1:
                continue
            allowed = (f"{place}/", *((*_READ_ANYWHERE, _DEMO) if event == "open" else ()))
            if not f"{os.fsdecode(path)}/".startswith(allowed):
                violations.append(f"{event} {path!r}")

    sys.addaudithook(hook)
    refused, seconds = {}, {}
    for name, directory in directories.items():
        began = time.process_time()
        refused[name] = refusals(directory, target)
        seconds[name] = time.process_time() - began
    if MARKER in os.environ:
        violations.append(MARKER)
    _check_hook(place, len(violations), violations)
    slowest = max(CORPUS, key=seconds.__getitem__)
    report = {"slowest": {slowest: round(seconds[slowest], 3)}, "violations": sorted(set(violations))}
    print(json.dumps({"refused": refused, **report}))


def _check_hook(place: Path, found: int, violations: list[str]) -> None:
    """Loads a pickle of the corpus, to show that the hook sees it."""
    payload = next(place.glob("*/tokenizer.pkl"))
    pickle.loads(payload.read_bytes())
    seen = violations[found:]
    assert MARKER in os.environ
    assert any(event.startswith("exec ") for event in seen), seen
    del violations[found:]


if __name__ == "__main__":
    main()
