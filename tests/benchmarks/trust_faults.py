"""Every fault at every call of everything that saves; conversions have ``convert_interrupted``.

    python -m tests.benchmarks.trust_faults [chats] [prompt-caches] [downloads]

1. A chat or a prompt cache is saved over another. Every write, sync, rename and open fails once with ENOSPC, EIO
   and EROFS, and the process is killed before and after each. The file always has the old or the new bytes.
2. A repository is downloaded. At every call that opens a file of the cache for writing, or creates, renames, links
   or removes one, the call fails with ENOSPC or EIO, or the process is killed. The model is always found
   completely or not at all, and the next download completes it.

Prints the counts; a violation is an assertion that stops the run.
"""

from __future__ import annotations

import argparse
import errno
import itertools
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from gptoss_mlx.cache import file as cachefile
from gptoss_mlx.cache.entry import CacheEntry
from gptoss_mlx.cache.layered import PromptCache
from gptoss_mlx.chat import file as chatfile
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import FileWriteError, NotEnoughDisk
from gptoss_mlx.harmony import Message
from tests.checkpoints import random_config
from tests.convert.sources import write_layout
from tests.files.faults import Save
from tests.forks import in_fork
from tests.hub.fake_hub import serving
from tests.hub.faults import FAULTS, Downloads, die, fail

_REPO = "someone/small-gpt-oss"
_FAULTS = {
    "ENOSPC": (fail(errno.ENOSPC), NotEnoughDisk),
    "EIO": (fail(errno.EIO), FileWriteError),
    "EROFS": (fail(errno.EROFS), FileWriteError),
}


def chats(place: Path) -> Counter[str]:
    """Saves of a chat."""
    path = place / "chat.json"

    def save(text: str) -> None:
        chatfile.write(path, chatfile.ChatContent(messages=(Message.user(text),)))

    return Save(path, lambda: save("old"), lambda: save("new" * 100_000)).outcomes(_FAULTS)


def prompt_caches(place: Path) -> Counter[str]:
    """Saves of a prompt cache."""
    path = place / "cache"

    def save(length: int) -> None:
        import mlx.core as mx

        config = ModelConfig.from_dict(random_config())
        entry = CacheEntry(0, PromptCache(config))
        states = mx.ones((1, config.num_key_value_heads, length, config.head_dim))
        for layer in entry.cache.layers:
            layer.append(states, states)
        entry.extend(range(length))
        entry.keep_snapshots([length])
        cachefile.write(path, entry, "a model")

    return Save(path, lambda: save(10), lambda: save(300)).outcomes(_FAULTS)


def model_downloads(place: Path) -> Counter[str]:
    """Downloads of a repository."""
    found: Counter[str] = Counter()
    # In a child: the children of a process that used MLX cannot use it.
    assert in_fork(lambda: _write_source(place / "source")) == 0
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


def _write_source(directory: Path) -> None:
    write_layout("hf", directory, num_hidden_layers=1)


PARTS = {"chats": chats, "prompt-caches": prompt_caches, "downloads": model_downloads}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="by default all")
    options = parser.parse_args()
    for name in options.parts or PARTS:
        with tempfile.TemporaryDirectory() as place:
            print(f"{name}: {dict(PARTS[name](Path(place)))}", flush=True)


if __name__ == "__main__":
    main()
