"""Finds checkpoints that other programs have on this machine: Ollama's blobs and LM Studio's folders.

Their manifests are read like any file of a stranger. Knows nothing of the contents of a checkpoint.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import CheckpointError, ModelNotFound
from ..files.read import inside, open_regular, parse_json, read_regular, short_repr
from ..files.write import as_path

__all__ = ["LM_STUDIO", "OLLAMA", "find_lm_studio", "find_ollama", "is_gguf", "list_lm_studio"]

OLLAMA, LM_STUDIO = "ollama:", "lmstudio:"
"""How references begin."""

_PART = re.compile(r"[A-Za-z0-9][\w.-]{0,95}")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_MODEL_LAYER = "application/vnd.ollama.image.model"
_MAX_MANIFEST = 2**20


def find_ollama(reference: str) -> Path:
    """The file of a model that Ollama downloaded.

    Args:
        reference: ``ollama:NAME:TAG`` as Ollama writes names; tag, namespace and registry may be left out.

    Raises:
        ModelNotFound: Ollama does not have it; names the command that gets it.
        CheckpointError: its manifest is damaged, or the file is missing.
    """
    name = reference.removeprefix(OLLAMA)
    path, _, tag = name.partition(":")
    parts = path.split("/")
    parts = [*("registry.ollama.ai", "library")[: 3 - len(parts)], *parts, tag or "latest"]
    if len(parts) != 4 or not all(map(_PART.fullmatch, parts)):
        raise ModelNotFound(f"{reference}: is no name of Ollama's; write it as ollama:gpt-oss:20b")
    home = _ollama_home()
    manifest = home.joinpath("manifests", *parts)
    if not manifest.is_file():
        raise ModelNotFound(
            f"{reference}: is not in {home}; get it with: ollama pull {name}, or set OLLAMA_MODELS"
        )
    blob = home / "blobs" / f"sha256-{_model_digest(manifest)}"
    if not blob.is_file():
        raise CheckpointError(f"{blob}: missing, but {manifest} names it; get it with: ollama pull {name}")
    return blob


def _ollama_home() -> Path:
    configured = os.environ.get("OLLAMA_MODELS")
    return as_path(configured) if configured else Path.home() / ".ollama" / "models"


def _model_digest(manifest: Path) -> str:
    try:
        content = parse_json(read_regular(inside(manifest), _MAX_MANIFEST))
        digests = [layer["digest"] for layer in content["layers"] if layer["mediaType"] == _MODEL_LAYER]
        found = [match[1] for digest in digests if (match := _DIGEST.fullmatch(digest))]
    except OSError as error:
        raise CheckpointError(f"{manifest}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        found = []
    if len(found) != 1:
        raise CheckpointError(f"{manifest}: names no file of a model; get it again with ollama pull")
    return found[0]


def find_lm_studio(name: str) -> Path | None:
    """The folder, or the GGUF file in it, of a model that LM Studio downloaded; None if it has none of that name.

    Args:
        name: publisher and model, as in LM Studio's folder: those of a Hub repository.

    Raises:
        CheckpointError: the folder has several models.
    """
    parts = name.split("/")
    if len(parts) != 2 or not all(map(_PART.fullmatch, parts)):
        return None
    folder = next((home.joinpath(*parts) for home in _lm_studio_homes() if home.joinpath(*parts).is_dir()), None)
    if folder is None or (folder / "config.json").exists():
        return folder
    files = [path for path in sorted(folder.glob("*.gguf")) if not path.name.startswith(("._", "mmproj"))]
    files = [path for path in files if "-of-" not in path.name or "-00001-of-" in path.name]
    if len(files) > 1:
        raise CheckpointError(
            f"{folder}: has {len(files)} GGUF files; name one of them, for example {short_repr(str(files[0]))}"
        )
    return files[0] if files else None


def list_lm_studio() -> dict[str, Path]:
    """The folders with a config.json among those that LM Studio downloaded, by publisher and model."""
    folders = (folder for home in _lm_studio_homes() for folder in sorted(home.glob("*/*")))
    return {"/".join(folder.parts[-2:]): folder for folder in folders if (folder / "config.json").is_file()}


def _lm_studio_homes() -> tuple[Path, Path]:
    return Path.home() / ".lmstudio" / "models", Path.home() / ".cache" / "lm-studio" / "models"


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF files do, whatever its name."""
    try:
        file, _ = open_regular(path)
    except (OSError, ValueError):
        return False
    with file:
        return file.read(4) == b"GGUF"
