"""Every fault at every moment, for everything that saves: chats, downloads; conversions: ``convert_interrupted``.

    python -m tests.benchmarks.trust_faults

1. A chat is saved: every write, sync, rename and opening fails once with ENOSPC, EIO and EROFS, and the process is
   killed before and after every one. After each, the old chat or the new one is there, whole.
2. A repository is downloaded: at every moment at which a file of the cache is opened for writing, made, renamed,
   linked or removed, the call fails with ENOSPC or EIO, or the process is killed. After each, the model is found
   whole or not at all, and downloading again ends with every byte.

Prints how often which happened; a violation is an assertion that stops it.
"""

from __future__ import annotations

import collections
import errno
import itertools
import os
import shutil
import signal
import tempfile
from pathlib import Path

from gptoss_mlx import chatfile
from gptoss_mlx.errors import GptOssError
from gptoss_mlx.harmony import Message
from tests.convert_faults import CALLS, faulty
from tests.convert_sources import write_layout
from tests.download_faults import FAULTS, Downloads, die, fail
from tests.fake_hub import serving

_OLD = chatfile.ChatContent(messages=(Message.user("old"),))
_NEW = chatfile.ChatContent(messages=(Message.user("new" * 100_000),))
_REPO = "someone/small-gpt-oss"


def chats(place: Path) -> collections.Counter[str]:
    """Saves of a chat."""
    path = place / "chat.json"
    with faulty(None, lambda: None, CALLS) as system:
        chatfile.write(path, _NEW)
    found: collections.Counter[str] = collections.Counter()
    for number in (errno.ENOSPC, errno.EIO, errno.EROFS):
        for at in range(1, system.count + 1):
            chatfile.write(path, _OLD)
            with faulty(at, fail(number), CALLS):
                message = _refusal(path)
            assert message.isprintable()
            assert [left.name for left in place.iterdir()] == ["chat.json"]
            found[f"{errno.errorcode[number]}: {_which(path)}"] += 1
    for after in (False, True):
        for at in range(1, system.count + 1):
            chatfile.write(path, _OLD)
            assert _save_and_die(path, at, after) == -signal.SIGKILL
            found[f"killed: {_which(path)}"] += 1
    return found


def _refusal(path: Path) -> str:
    try:
        chatfile.write(path, _NEW)
    except GptOssError as error:
        return str(error)
    raise AssertionError("no error")


def _which(path: Path) -> str:
    content = chatfile.read(path)
    assert content in (_OLD, _NEW)
    return "the old chat" if content == _OLD else "the new chat"


def _save_and_die(path: Path, at: int, after: bool) -> int:
    child = os.fork()
    if child == 0:
        try:
            with faulty(at, die, CALLS, after=after):
                chatfile.write(path, _NEW)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def model_downloads(place: Path) -> collections.Counter[str]:
    """Downloads of a repository."""
    found: collections.Counter[str] = collections.Counter()
    child = os.fork()
    if child == 0:  # this process must not use MLX, or its children could not
        write_layout("hf", place / "source", num_hidden_layers=1)
        os._exit(0)
    os.waitpid(child, 0)
    expected = {path.name: path.read_bytes() for path in (place / "source").iterdir()}
    cache = place / "cache"
    with serving(_REPO, place / "source") as hub:
        downloads = Downloads(_REPO, hub.url, cache, expected)
        for name, happens in FAULTS.items():
            for at in itertools.count(1):
                code = downloads.attempt(at, happens)
                assert code != 2, "an error that is not typed"
                left = downloads.state()
                assert downloads.attempt(None, die) == 0
                assert downloads.state() == "everything"
                shutil.rmtree(cache)
                if code == 0:
                    break
                found[f"{name}: {left}"] += 1
    return found


def main() -> None:
    """The command line."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "chats").mkdir()
        print("chats:", dict(chats(Path(place) / "chats")), flush=True)
        print("downloads:", dict(model_downloads(Path(place))), flush=True)


if __name__ == "__main__":
    main()
