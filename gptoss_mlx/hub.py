"""From what a user calls a model to a directory on this machine, and the downloads that put it there.

A reference is ``demo``, ``20b``, ``120b``, the name of a converted model, a directory, or a Hub repository id.
Nothing is ever downloaded unless that is asked for. Knows nothing of what is in a checkpoint, only which
files make one up.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .errors import ConversionError, DownloadError, FileWriteError, ModelNotFound, NotEnoughDisk

__all__ = [
    "ALIASES",
    "Download",
    "InstalledModel",
    "Progress",
    "converted_path",
    "data_directory",
    "download",
    "find_source",
    "free_space",
    "list_models",
    "mark_used",
    "plan_download",
    "repository_of",
    "resolve",
    "shares_disk_with_cache",
]

ALIASES: Mapping[str, str] = MappingProxyType({"20b": "openai/gpt-oss-20b", "120b": "openai/gpt-oss-120b"})
MANIFEST_NAME = "manifest.json"

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all, from any thread."""

_INDEX = "model.safetensors.index.json"
_DEMO = Path(__file__).parent / "demo" / "checkpoint"
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}")
# Beside the weights; everything else in a repository (original/, metal/, pickles, images) stays there.
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
class InstalledModel:
    """A model that can be loaded without downloading anything."""

    name: str
    """What ``gptoss chat --model`` takes."""
    path: Path
    nbytes: int
    precision: str
    """Of the dense layers: ``bf16``, ``q8`` or ``q4``; ``?`` where config.json cannot be read."""
    last_used: float | None
    """Seconds since the epoch; None if never."""
    converted: bool
    """Written by ``gptoss convert`` (False: the demo, or a download in the Hub's cache)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """What would be downloaded: the files of one revision of a repository."""

    repo_id: str
    revision: str
    files: tuple[str, ...]
    nbytes: int
    """Of all the files."""
    missing_bytes: int
    """Of those that are not in the Hub's cache yet."""


def data_directory() -> Path:
    """Where converted models are kept: ``GPTOSS_DATA``, or the user's data directory. Need not exist."""
    override = os.environ.get("GPTOSS_DATA")
    if override:
        return Path(override).expanduser()
    import platformdirs

    return platformdirs.user_data_path("gptoss") / "models"


def converted_path(reference: str) -> Path:
    """Where the conversion of a model goes, and is found by name, unless another place is named.

    Raises:
        ConversionError: the reference has no part that could be a name.
    """
    name = Path(reference).name or Path(reference).resolve().name
    if not _NAME.fullmatch(name):
        raise ConversionError(f"{reference}: no name to keep the converted model under; name a destination")
    return data_directory() / name


def resolve(reference: str, *, download: bool = False, progress: Progress | None = None) -> Path:
    """The directory of the model called ``reference``.

    Looked for in this order: the demo; a converted model of that name; a directory; the Hub's cache.

    Args:
        reference: ``demo``, ``20b``, ``120b``, a converted model's name, a directory or a Hub repository id.
        download: get it from the Hub if it is not here.
        progress: called while downloading.

    Raises:
        ModelNotFound: it is not on this machine; the message names the command that gets it.
        DownloadError, NotEnoughDisk: only with ``download``.
    """
    if reference == "demo":
        return _DEMO
    if _NAME.fullmatch(reference):
        converted = data_directory() / reference
        if (converted / MANIFEST_NAME).is_file():
            return converted
    return find_source(reference, allow_download=download, progress=progress)


def find_source(reference: str, *, allow_download: bool = False, progress: Progress | None = None) -> Path:
    """As :func:`resolve`, without the converted models: where ``gptoss convert`` takes its input from.

    Raises:
        ModelNotFound: it is not on this machine; the message names the command that gets it.
        DownloadError, NotEnoughDisk: only with ``allow_download``.
    """
    if reference == "demo":
        return _DEMO
    path = Path(reference).expanduser()
    if reference not in ALIASES and reference and path.is_dir():
        return path
    repo_id = repository_of(reference)
    if repo_id is None:
        raise ModelNotFound(_unknown(reference, path))
    cached = _cached_snapshot(repo_id)
    if cached is not None:
        return cached
    if allow_download:
        return download(plan_download(repo_id), progress=progress)
    raise ModelNotFound(f"{reference}: not on this machine; get it with: gptoss convert {reference}")


def repository_of(reference: str) -> str | None:
    """The Hub repository a reference names; None if it can only be a path or a converted model's name."""
    if reference in ALIASES:
        return ALIASES[reference]
    return reference if _REPO_ID.fullmatch(reference) and not _looks_like_path(reference) else None


def _looks_like_path(reference: str) -> bool:
    return reference.startswith((".", "~", "/")) or reference.endswith("/")


def _unknown(reference: str, path: Path) -> str:
    if not reference:
        return "no model was named; try: demo, or get one with: gptoss convert 20b"
    if path.exists():
        return f"{reference}: is not a directory; name the directory that holds config.json"
    if _NAME.fullmatch(reference):
        return f"{reference}: no model of that name here; see 'gptoss models', or get one: gptoss convert 20b"
    return f"{reference}: no such directory; name one that holds config.json, or get one with: gptoss convert 20b"


def _cached_snapshot(repo_id: str) -> Path | None:
    """The newest revision of a repository in the Hub's cache, if every file needed is there."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repo_id, "config.json")
    if not isinstance(config, str):
        return None
    directory = Path(config).parent
    return directory if _is_complete(directory) else None


def _is_complete(directory: Path) -> bool:
    """Whether config, tokenizer and every shard the index names are there. Contents are not looked at."""
    if not all((directory / name).exists() for name in ("config.json", "tokenizer.json")):
        return False
    if not (directory / _INDEX).exists():
        return any(directory.glob("*.safetensors"))
    shards = _index_shards((directory / _INDEX).read_bytes())
    return bool(shards) and all((directory / shard).exists() for shard in shards)


def _index_shards(index: bytes) -> frozenset[str]:
    """The shards an index names; empty if it cannot be read (reading the checkpoint says what is wrong)."""
    try:
        return frozenset(map(str, json.loads(index)["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        return frozenset()


def plan_download(repo_id: str, revision: str | None = None) -> Download:
    """Asks the Hub which files there are and how large they are; downloads nothing.

    Raises:
        DownloadError: no such repository, no access, no network, or no safetensors in it.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    with _explained(repo_id):
        info = HfApi().model_info(repo_id, revision=revision, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    files = tuple(sorted(_needed(sizes)))
    if not any(name.endswith(".safetensors") for name in files):
        raise DownloadError(f"{repo_id}: holds no safetensors; pickles are never read, name another repository")
    if "config.json" not in files or info.sha is None:
        raise DownloadError(f"{repo_id}: holds no config.json; this is not a model repository")
    cached = {name for name in files if isinstance(try_to_load_from_cache(repo_id, name, revision=info.sha), str)}
    return Download(
        repo_id=repo_id,
        revision=info.sha,
        files=files,
        nbytes=sum(sizes[name] for name in files),
        missing_bytes=sum(sizes[name] for name in files if name not in cached),
    )


def _needed(names: Iterable[str]) -> Iterator[str]:
    """The files a conversion reads: those at the top, no pickles."""
    for name in names:
        if "/" not in name and (name in _SMALL_FILES or name.endswith(".safetensors")):
            yield name


def download(plan: Download, *, progress: Progress | None = None) -> Path:
    """Downloads into the Hub's own cache, where other tools find it, and gives the directory.

    An interrupted download goes on where it stopped.

    Raises:
        DownloadError: the Hub refused, the connection broke for good, or files are missing afterwards.
        NotEnoughDisk: it would not fit.
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
    _remember_main(plan)
    if progress is not None:
        progress(plan.nbytes, plan.nbytes)
    return directory


def _remember_main(plan: Download) -> None:
    """Lets the cache find this revision as ``main``, as a download by branch name would."""
    from huggingface_hub import constants

    refs = Path(constants.HF_HUB_CACHE) / f"models--{plan.repo_id.replace('/', '--')}" / "refs"
    from .files import write_text

    with contextlib.suppress(OSError, FileWriteError):
        refs.mkdir(parents=True, exist_ok=True)
        write_text(refs / "main", plan.revision)


def free_space(place: Path) -> int:
    """Free bytes on the disk of a directory that need not exist yet."""
    return shutil.disk_usage(_existing(place)).free


def shares_disk_with_cache(place: Path) -> bool:
    """Whether what is downloaded and what is written to ``place`` compete for the same space."""
    from huggingface_hub import constants

    return _existing(place).stat().st_dev == _existing(Path(constants.HF_HUB_CACHE)).stat().st_dev


def _existing(place: Path) -> Path:
    """The place itself or the nearest directory above it that exists."""
    place = place.absolute()
    return next(path for path in (place, *place.parents) if path.exists())


def _check_disk(cache: Path, plan: Download) -> None:
    free = free_space(cache)
    if free < plan.missing_bytes + _DISK_RESERVE:
        raise NotEnoughDisk(
            f"{cache}: {plan.missing_bytes / 1e9:.1f} GB to download and {free / 1e9:.1f} GB free; "
            "free some, or set HF_HOME to a larger disk"
        )


def _progress_bar(report: Progress, plan: Download) -> type[Any]:
    """A tqdm that draws nothing and passes the bytes on."""
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
                # Some versions of the Hub's library have two bars for the same bytes: on the wire and on disk.
                counted[id(self)] = self.n
                report(min(plan.nbytes, already + int(max(counted.values()))), plan.nbytes)
            return None

        def display(self, *args: Any, **kwargs: Any) -> None:
            pass

        def close(self) -> None:
            pass

    return Silent


@contextlib.contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Turns the Hub library's errors into one line with what to do."""
    from huggingface_hub import errors

    # The transport's own root: httpx or its successor, whichever the installed version uses.
    transport: type[Exception] = errors.HfHubHTTPError.__bases__[0]
    try:
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
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError, transport) as error:
        raise DownloadError(
            f"{repo_id}: the Hub cannot be reached or the connection broke ({_first_line(error)}); "
            "check the network and run the same command again: what arrived is kept"
        ) from error
    except errors.HFValidationError as error:
        raise DownloadError(f"{repo_id}: is no repository id; they look like org/name") from error
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
    return DownloadError(f"{repo_id}: the Hub answered {status}; wait a while and run the same command again")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def list_models() -> list[InstalledModel]:
    """The models that can be loaded now: converted ones (last used first), the demo, then the Hub's cache."""
    converted = [_installed(path.name, path, True) for path in _converted_directories()]
    converted.sort(key=lambda model: (-(model.last_used or 0), model.name))
    names = {model.name for model in converted}
    others = [_installed("demo", _DEMO, False)] if _DEMO.is_dir() and "demo" not in names else []
    for alias, repo_id in ALIASES.items():
        cached = _cached_snapshot(repo_id)
        if cached is not None:
            others.append(_installed(repo_id if alias in names else alias, cached, False))
    return converted + others


def _converted_directories() -> list[Path]:
    home = data_directory()
    if not home.is_dir():
        return []
    return [path for path in home.iterdir() if _NAME.fullmatch(path.name) and (path / MANIFEST_NAME).is_file()]


def _installed(name: str, path: Path, converted: bool) -> InstalledModel:
    sizes = []
    for file in path.iterdir():
        with contextlib.suppress(OSError):
            sizes.append(file.stat().st_size)
    marker = _marker(name)
    last_used = marker.stat().st_mtime if marker.exists() else None
    return InstalledModel(
        name=name,
        path=path,
        nbytes=sum(sizes),
        precision=_precision(path),
        last_used=last_used,
        converted=converted,
    )


def _precision(path: Path) -> str:
    try:
        config = json.loads((path / "config.json").read_bytes())
        quantization = config.get("quantization")
        return "bf16" if quantization is None else f"q{int(quantization['bits'])}"
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return "?"


def mark_used(reference: str | Path) -> None:
    """Remembers that a model was loaded just now, so that it can be the default. Never fails.

    Args:
        reference: a converted model's name or directory; anything else is not remembered.
    """
    path = Path(reference)
    home = data_directory()
    if len(path.parts) > 1 and path.parent != home:
        return
    if not (home / path.name / MANIFEST_NAME).is_file():
        return
    with contextlib.suppress(OSError):
        marker = _marker(path.name)
        marker.parent.mkdir(exist_ok=True)
        marker.touch()


def _marker(name: str) -> Path:
    """An empty file whose time is the model's last use. Not in the model: that is as it was written."""
    return data_directory() / ".used" / name
