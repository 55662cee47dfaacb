"""Resolves a user's reference to a model into a directory on this machine.

A reference is ``demo``, ``20b``, ``120b``, the name of a converted model, a directory, or a Hub repository id or
address, with ``@revision`` if need be. A source of a conversion may also be a GGUF file, ``ollama:NAME:TAG`` or
``lmstudio:PUBLISHER/MODEL``. Nothing is downloaded unless the caller asks for it. Knows nothing of what is in a
checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ..errors import CheckpointError, ConversionError, ModelNotFound
from ..files.read import read_json
from ..files.write import as_path
from . import downloads
from .downloads import Progress, cached_repositories, cached_snapshot
from .local import LM_STUDIO, OLLAMA, find_lm_studio, find_ollama, is_gguf, list_lm_studio

__all__ = [
    "ALIASES",
    "InstalledModel",
    "Repository",
    "clear_used",
    "converted_path",
    "data_directory",
    "default_model",
    "find_converted",
    "find_source",
    "list_converted",
    "list_models",
    "mark_used",
    "name_of",
    "repository_of",
    "resolve",
]

ALIASES: Mapping[str, str] = MappingProxyType({"20b": "openai/gpt-oss-20b", "120b": "openai/gpt-oss-120b"})
MANIFEST_NAME = "manifest.json"
DEMO = "demo"
"""The name of the embedded model; no other model can have it."""

_DEMO_CHECKPOINT = Path(__file__).parents[1] / "demo" / "checkpoint"
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}")
_OTHER = re.compile(r"[^\w.-]+")
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,95}")
_ADDRESS = re.compile(
    r"(?:https?://)?(?:huggingface\.co|hf\.co)/(?P<name>[^/?#\s]+/[^/?#\s]+)"
    r"(?:/(?:tree|blob|resolve|commit)/(?P<revision>[^/?#\s]+)[^\s]*)?/?(?:[?#]\S*)?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledModel:
    """A model that can be loaded without a download."""

    name: str
    """The reference for ``gptoss chat --model``."""
    path: Path
    nbytes: int
    last_used: float | None
    """Seconds since the epoch; None if never."""
    converted: bool
    """Whether ``gptoss convert`` wrote it; else it is the demo, a download in the Hub's cache or LM Studio's."""


def data_directory() -> Path:
    """The directory of converted models: ``GPTOSS_DATA``, or in the user's data directory. It may not exist."""
    override = os.environ.get("GPTOSS_DATA")
    if override:
        return as_path(override)
    import platformdirs

    return platformdirs.user_data_path("gptoss") / "models"


def name_of(directory: Path) -> str:
    """The last part of a model's name: of a snapshot in the Hub's cache its repository's, else the directory's."""
    directory = directory.resolve()
    if directory.parent.name == "snapshots":
        return directory.parent.parent.name.rpartition("--")[2]
    return directory.name


def converted_path(reference: str, adapter: str | Path | None = None) -> Path:
    """The default destination of a conversion, where the model is found by its name.

    Args:
        reference: of the source.
        adapter: the directory of an adapter that is merged; the name then ends in its name.

    Raises:
        ConversionError: the reference does not end in a valid name.
    """
    repository = repository_of(reference)
    if repository is not None and reference not in ALIASES:
        reference = "-".join(part for part in (repository.repo_id, repository.revision) if part)
    name = Path(reference).name or Path(reference).resolve().name
    if is_gguf(as_path(reference)):
        name = Path(name).stem
    if reference.startswith(OLLAMA):
        name = name.removeprefix(OLLAMA).replace(":", "-")
    if name == DEMO:  # that name always means the embedded model
        name = f"{DEMO}-converted"
    if adapter is not None:
        name = f"{name.removesuffix('-converted')}-{_OTHER.sub('-', Path(adapter).resolve().name)}"
    if not _NAME.fullmatch(name):
        raise ConversionError(f"{reference}: gives no name for the converted model; name a destination")
    return data_directory() / name


def resolve(reference: str, *, download: bool = False, progress: Progress | None = None) -> Path:
    """Finds the directory of a model.

    Searches in this order: the demo; a converted model of that name; a directory; the Hub's cache.

    Args:
        reference: ``demo``, ``20b``, ``120b``, a converted model's name, a directory or a Hub repository id.
        download: whether to download it from the Hub if it is not on this machine.
        progress: called while downloading.

    Raises:
        ModelNotFound: it is not on this machine; names the command that gets it.
        DownloadError, NotEnoughDisk: only with ``download``.
    """
    if reference == DEMO:
        return _DEMO_CHECKPOINT
    found = find_converted(reference) or find_source(reference, allow_download=download, progress=progress)
    if found.is_file():
        name = converted_path(reference).name
        if find_converted(name) is not None:
            raise ModelNotFound(f"{reference}: is a GGUF file; name the model it was converted to: {name}")
        raise ModelNotFound(
            f"{reference}: is a GGUF file; convert it once: {shlex.join(['gptoss', 'convert', reference])}"
        )
    return found


def find_converted(reference: str) -> Path | None:
    """The directory of a converted model of that name."""
    converted = data_directory() / reference
    return converted if _NAME.fullmatch(reference) and (converted / MANIFEST_NAME).is_file() else None


def find_source(reference: str, *, allow_download: bool = False, progress: Progress | None = None) -> Path:
    """Finds the source of a conversion: as :func:`resolve`, but ignores converted models.

    Raises:
        ModelNotFound: it is not on this machine; names the command that gets it.
        DownloadError, NotEnoughDisk: only with ``allow_download``.
    """
    if reference == DEMO:
        return _DEMO_CHECKPOINT
    if reference.startswith(OLLAMA):
        return find_ollama(reference)
    path = as_path(reference)
    if reference not in ALIASES and reference and (path.is_dir() or is_gguf(path)):
        return path
    studio = find_lm_studio(reference.removeprefix(LM_STUDIO))
    if reference.startswith(LM_STUDIO) and studio is None:
        raise ModelNotFound(
            f"{reference}: LM Studio has no model of that name; write it as lmstudio:PUBLISHER/MODEL"
        )
    repository = repository_of(reference)
    cached = repository and cached_snapshot(repository.repo_id, repository.revision)
    if cached or studio:
        return cached or studio or path
    if repository is None:
        raise ModelNotFound(_unknown(reference, path))
    if allow_download:
        plan = downloads.plan_download(repository.repo_id, repository.revision)
        return downloads.download(plan, progress=progress)
    raise ModelNotFound(f"{reference}: not on this machine; get it with: gptoss convert {reference}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository on the Hub, and the revision that is meant."""

    repo_id: str
    revision: str | None = None
    """A branch, a tag or a commit; None is the main branch."""


def repository_of(reference: str) -> Repository | None:
    """The Hub repository that a reference names; None if it can only be a path or a converted model's name.

    Args:
        reference: ``org/name``, ``20b`` or ``120b``, with ``@revision`` if need be; or the address of a page.
    """
    name, _, revision = reference.partition("@")
    address = _ADDRESS.fullmatch(reference)
    if address is not None:
        name, revision = address["name"], address["revision"] or ""
    name = ALIASES.get(name, name)
    if revision and not _REVISION.fullmatch(revision):
        return None
    if not _REPO_ID.fullmatch(name) or _looks_like_path(name) or (address is None and as_path(reference).exists()):
        return None
    return Repository(repo_id=name, revision=revision or None)


def _looks_like_path(reference: str) -> bool:
    ends = ("/", ".gguf", ".safetensors", ".json", ".bin")
    return reference.startswith((".", "~", "/")) or reference.endswith(ends)


def _unknown(reference: str, path: Path) -> str:
    if not reference:
        return "no model is named; try: demo, or get one with: gptoss convert 20b"
    if path.suffix == ".gguf" and not path.exists():
        return f"{reference}: no such file; name a GGUF file"
    if path.exists():
        return f"{reference}: is neither a directory nor a GGUF file; name the directory that contains config.json"
    if _NAME.fullmatch(reference):
        return f"{reference}: no model of that name here; see 'gptoss models', or get one: gptoss convert 20b"
    return (
        f"{reference}: no such directory; name one with a config.json in it, or get one with: gptoss convert 20b"
    )


def list_models() -> list[InstalledModel]:
    """All models on this machine: converted ones (last used first), the demo, the Hub cache's, LM Studio's."""
    converted = list_converted()
    others = [_installed(DEMO, _DEMO_CHECKPOINT, False)] if _DEMO_CHECKPOINT.is_dir() else []
    aliases = {repo_id: alias for alias, repo_id in ALIASES.items()}
    taken = {model.name for model in converted}
    for repo_id in sorted(cached_repositories(), key=lambda name: name not in aliases):
        cached, alias = cached_snapshot(repo_id), aliases.get(repo_id, repo_id)
        if cached is not None and _is_gpt_oss(cached):
            others.append(_installed(repo_id if alias in taken else alias, cached, False))
    for name, folder in list_lm_studio().items():
        if _is_gpt_oss(folder):
            others.append(_installed(f"{LM_STUDIO}{name}", folder, False))
    return converted + others


def _is_gpt_oss(directory: Path) -> bool:
    try:
        return read_json(directory / "config.json").get("model_type") == "gpt_oss"
    except CheckpointError:
        return False


def list_converted() -> list[InstalledModel]:
    """The models that ``gptoss convert`` wrote, last used first; faster than searching the Hub's cache too."""
    converted = [_installed(path.name, path, True) for path in _converted_directories()]
    return sorted(converted, key=lambda model: (-(model.last_used or 0), model.name))


def default_model() -> str | None:
    """The model to use if the user names none.

    Returns:
        The converted model used last; else a released model in the Hub's cache; else the demo if it was ever used;
        else None.
    """
    converted = list_converted()
    if converted:
        return converted[0].name
    for alias, repo_id in ALIASES.items():
        if cached_snapshot(repo_id) is not None:
            return alias
    return DEMO if _marker(DEMO).exists() else None


def _converted_directories() -> list[Path]:
    home = data_directory()
    if not home.is_dir():
        return []
    return [
        path
        for path in home.iterdir()
        if _NAME.fullmatch(path.name) and path.name != DEMO and (path / MANIFEST_NAME).is_file()
    ]


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
        last_used=last_used,
        converted=converted,
    )


def mark_used(reference: str | Path) -> None:
    """Records that a model is used now, so that it becomes the default. Never fails.

    Args:
        reference: name or directory of a converted model or the demo; anything else is not recorded.
    """
    name = _recorded_name(Path(reference))
    if name is not None:
        with contextlib.suppress(OSError):
            marker = _marker(name)
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()


def _recorded_name(path: Path) -> str | None:
    if path in (Path(DEMO), _DEMO_CHECKPOINT):
        return DEMO
    home = data_directory()
    if len(path.parts) > 1 and path.parent != home:
        return None
    return path.name if (home / path.name / MANIFEST_NAME).is_file() else None


def clear_used(name: str) -> None:
    """Removes the record of a deleted model's use."""
    with contextlib.suppress(OSError):
        _marker(name).unlink()


def _marker(name: str) -> Path:
    """An empty file whose time is the model's last use. It is outside the model, which never changes."""
    return data_directory() / ".used" / name
