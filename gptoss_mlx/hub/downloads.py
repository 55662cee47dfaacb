"""Downloads from the Hugging Face Hub, and what its cache already contains.

The Hub's own library downloads into its own cache, where other tools find the files, and does its own retries. Its
errors become one line with a remedy; its warnings go to this module's logger, which is silent by default. Knows
which files a checkpoint consists of, and nothing of their contents.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DownloadError, FileWriteError, NotEnoughDisk
from ..files.read import read_json
from ..files.units import format_bytes
from ..files.write import write_text

__all__ = [
    "Download",
    "Progress",
    "cached_repositories",
    "cached_snapshot",
    "download",
    "free_space",
    "plan_download",
    "shares_disk_with_cache",
]

_logger = logging.getLogger(__name__)
_logger.addHandler(logging.NullHandler())

Progress = Callable[[int, int], None]
"""Called with the bytes done and the total, from any thread."""

_INDEX = "model.safetensors.index.json"
# Downloaded with the weights; nothing else is (original/, metal/, pickles, images).
_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "LICENSE",
    _INDEX,
)
_DISK_RESERVE = 256 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A planned download: the files of one revision of a repository."""

    repo_id: str
    revision: str
    """The commit."""
    branch: str
    """The branch or tag that was asked for; or the commit."""
    files: tuple[str, ...]
    nbytes: int
    """The size of all the files."""
    missing_bytes: int
    """The size of the files that are not yet in the Hub's cache."""


def cached_snapshot(repo_id: str, revision: str | None = None) -> Path | None:
    """A revision of a repository in the Hub's cache, by default the main branch, if every file needed is there.

    The contents are not checked; reading the checkpoint does that.
    """
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repo_id, "config.json", revision=revision)
    if not isinstance(config, str):
        return None
    directory = Path(config).parent
    return directory if _is_complete(directory) else None


def cached_repositories() -> list[str]:
    """The ids of all model repositories in the Hub's cache, complete or not."""
    from huggingface_hub import constants

    names = sorted(path.name for path in Path(constants.HF_HUB_CACHE).glob("models--*--*"))
    return [name.removeprefix("models--").replace("--", "/", 1) for name in names]


def _is_complete(directory: Path) -> bool:
    """Whether config, tokenizer and every shard in the index exist. Their contents are not checked."""
    if not all((directory / name).exists() for name in ("config.json", "tokenizer.json")):
        return False
    if not (directory / _INDEX).exists():
        return any(not path.name.startswith(".") for path in directory.glob("*.safetensors"))
    shards = _index_shards(directory / _INDEX)
    return bool(shards) and all((directory / shard).exists() for shard in shards)


def _index_shards(index: Path) -> frozenset[str]:
    """The shards an index names; empty if it cannot be read (reading the checkpoint reports why)."""
    try:
        return frozenset(map(str, read_json(index)["weight_map"].values()))
    except (CheckpointError, KeyError, AttributeError):
        return frozenset()


def plan_download(repo_id: str, revision: str | None = None) -> Download:
    """Asks the Hub for the files and their sizes; downloads nothing.

    Raises:
        DownloadError: there is no such repository, no access, no network, or no safetensors.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    with _explained(repo_id):
        info = HfApi().model_info(repo_id, revision=revision, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    files = tuple(sorted(_needed(sizes)))
    if not any(name.endswith(".safetensors") for name in files):
        raise DownloadError(f"{repo_id}: contains no safetensors; pickles are never read, name another repository")
    if "config.json" not in files or info.sha is None:
        raise DownloadError(f"{repo_id}: contains no config.json; this is not a model repository")
    cached = {name for name in files if isinstance(try_to_load_from_cache(repo_id, name, revision=info.sha), str)}
    return Download(
        repo_id=repo_id,
        revision=info.sha,
        branch=revision or "main",
        files=files,
        nbytes=sum(sizes[name] for name in files),
        missing_bytes=sum(sizes[name] for name in files if name not in cached),
    )


def _needed(names: Iterable[str]) -> Iterator[str]:
    """The files that a conversion reads: at the top level, no pickles."""
    for name in names:
        if "/" not in name and (name in _SMALL_FILES or name.endswith(".safetensors")):
            yield name


def download(plan: Download, *, progress: Progress | None = None) -> Path:
    """Downloads into the Hub's own cache and returns the directory.

    An interrupted download continues where it stopped.

    Raises:
        DownloadError: the Hub refused, the connection failed, or files are missing afterwards.
        NotEnoughDisk: it does not fit.
    """
    from huggingface_hub import constants, snapshot_download

    _check_disk(Path(constants.HF_HUB_CACHE), plan)
    with _explained(plan.repo_id):
        directory = Path(
            snapshot_download(
                plan.repo_id,
                revision=plan.revision,
                allow_patterns=list(plan.files),
                tqdm_class=_progress_bar(progress or (lambda done, total: None), plan),
            )
        )
    missing = [name for name in plan.files if not (directory / name).exists()]
    if missing or not _is_complete(directory):
        what = missing[0] if missing else "a shard or tokenizer.json"
        raise DownloadError(f"{plan.repo_id}: {what} did not arrive; run the same command again")
    _record_branch(plan)
    if progress is not None:
        progress(plan.nbytes, plan.nbytes)
    return directory


def _record_branch(plan: Download) -> None:
    """Records this commit as the branch's in the cache, as a download by branch name does."""
    from huggingface_hub import constants

    if plan.branch == plan.revision:
        return
    reference = Path(constants.HF_HUB_CACHE) / f"models--{plan.repo_id.replace('/', '--')}" / "refs" / plan.branch
    with contextlib.suppress(OSError, FileWriteError):
        reference.parent.mkdir(parents=True, exist_ok=True)
        write_text(reference, plan.revision)


def free_space(path: Path) -> int:
    """Free bytes on the disk of a directory, which may not exist yet."""
    return shutil.disk_usage(_existing(path)).free


def shares_disk_with_cache(path: Path) -> bool:
    """Whether a path is on the same disk as the Hub's cache."""
    from huggingface_hub import constants

    return _existing(path).stat().st_dev == _existing(Path(constants.HF_HUB_CACHE)).stat().st_dev


def _existing(path: Path) -> Path:
    """The path itself, or its nearest parent that exists."""
    path = path.absolute()
    return next(candidate for candidate in (path, *path.parents) if candidate.exists())


def _check_disk(cache: Path, plan: Download) -> None:
    free = free_space(cache)
    if free < plan.missing_bytes + _DISK_RESERVE:
        raise NotEnoughDisk(
            f"{cache}: the download needs {format_bytes(plan.missing_bytes)}, {format_bytes(free)} are free; "
            "free some, or set HF_HOME to a larger disk"
        )


def _progress_bar(report: Progress, plan: Download) -> type[Any]:
    """A tqdm that draws nothing and reports the bytes to ``report``."""
    from tqdm.std import tqdm  # type: ignore[import-untyped]

    counted: dict[int, float] = {}
    already = plan.nbytes - plan.missing_bytes

    class Silent(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            self._counts_bytes = kwargs.get("unit") == "B"
            super().__init__(*args, **{**kwargs, "disable": False, "gui": True})

        def update(self, n: float | None = 1) -> bool | None:
            self.n += n or 0
            if self._counts_bytes:
                # Some versions of the Hub's library have two bars for the same bytes: received and written.
                counted[id(self)] = self.n
                report(min(plan.nbytes, already + int(max(counted.values()))), plan.nbytes)
            return None

        def display(self, *args: Any, **kwargs: Any) -> None:
            pass

        def close(self) -> None:
            pass

    return Silent


class _Forwarding(logging.Handler):
    """Logs the records of the Hub's library as this module's: in one line, with URLs cut to the file name."""

    def emit(self, record: logging.LogRecord) -> None:
        text = re.sub(r"\w+://\S*/([^\s/?:]*)[^\s:]*", r"\1", record.getMessage())
        _logger.log(record.levelno, "the Hub: %s", _first_line(text))


@contextlib.contextmanager
def _forwarded_logs() -> Iterator[None]:
    """Keeps the Hub's library from logging its retries to standard error."""
    library = logging.getLogger("huggingface_hub")
    before, library.handlers = library.handlers, [_Forwarding()]
    try:
        yield
    finally:
        library.handlers = before


@contextlib.contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Turns the errors of the Hub's library into one line with a remedy."""
    from huggingface_hub import errors

    # The base class of the transport's errors: that of httpx, or of its successor in newer versions.
    transport: type[Exception] = errors.HfHubHTTPError.__bases__[0]
    try:
        with _forwarded_logs():
            yield
    except errors.GatedRepoError as error:
        raise DownloadError(
            f"{repo_id}: access is restricted; accept its terms on huggingface.co/{repo_id}, then: hf auth login"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DownloadError(
            f"{repo_id}: no such repository on the Hub, or a private one; check the name, or: hf auth login"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DownloadError(f"{repo_id}: no such revision on the Hub; check the name") from error
    except errors.HfHubHTTPError as error:
        raise _http_error(repo_id, error) from error
    except errors.OfflineModeIsEnabled as error:
        raise DownloadError(f"{repo_id}: HF_HUB_OFFLINE is set; unset it to download") from error
    except (errors.LocalEntryNotFoundError, ConnectionError, transport) as error:
        raise DownloadError(
            f"{repo_id}: the Hub cannot be reached or the connection broke ({_first_line(error)}); "
            "check the network and run the same command again: finished parts are kept"
        ) from error
    except errors.HFValidationError as error:
        raise DownloadError(f"{repo_id}: is not a repository id; write it as org/name") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NotEnoughDisk(f"{repo_id}: the disk is full; free some and try again") from error
        raise DownloadError(
            f"{repo_id}: the download failed ({_first_line(error)}); run the same command again"
        ) from error


def _http_error(repo_id: str, error: Any) -> DownloadError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return DownloadError(f"{repo_id}: the Hub does not accept the token (401); log in again: hf auth login")
    if status == 404:
        return DownloadError(f"{repo_id}: a file is not on the Hub (404); it may have changed, try again")
    return DownloadError(f"{repo_id}: the Hub answered {status}; wait and run the same command again")


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
