"""manifest.json: the files and tensors of a converted directory with their SHA-256.

Every byte is hashed once: those of a tensor for the tensor, all others for the file. The manifest is written last.
It ends in a hash of itself and its text is a function of its content, so that a change of any bit is noticed. A
directory without a manifest is not a finished conversion.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptoss_mlx.checkpoint.safetensors import MAX_NAME_BYTES
from gptoss_mlx.errors import CheckpointError
from gptoss_mlx.files.read import inside, parse_json, read_regular, short_repr

__all__ = ["FORMAT", "MANIFEST_NAME", "FileEntry", "Manifest", "TensorEntry"]

FORMAT = 2
_READABLE = (1, FORMAT)
MANIFEST_NAME = "manifest.json"
_MAX_BYTES = 8 * 2**20  # some 300 for a tensor, for at most 10,000 tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A file of the directory."""

    bytes: int
    sha256: str
    """Of the whole file, or of a safetensors file's header, after which there is nothing but tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """A tensor of the directory."""

    dtype: str
    shape: tuple[int, ...]
    file: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of manifest.json without its own hash."""

    source: Mapping[str, Any]
    """``name``, ``revision`` (a commit of the Hub, or null) and ``layout``."""
    options: Mapping[str, Any]
    files: Mapping[str, FileEntry]
    tensors: Mapping[str, TensorEntry]
    format: int = FORMAT
    """In format 1 the hash of a safetensors file is that of all its bytes."""

    def text(self) -> str:
        """The text of the file; equal contents give equal texts."""
        content = {
            "format": self.format,
            "source": dict(self.source),
            "options": dict(self.options),
            "files": {name: asdict(self.files[name]) for name in sorted(self.files)},
            "tensors": {name: asdict(self.tensors[name]) for name in sorted(self.tensors)},
        }
        digest = hashlib.sha256(_encode(content)).hexdigest()
        return json.dumps(content | {"sha256": digest}, indent=1) + "\n"

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Reads and checks the manifest of a directory.

        Raises:
            CheckpointError: there is none, it is of a newer version, or it was changed.
        """
        path = directory / MANIFEST_NAME
        try:
            data = read_regular(inside(path), _MAX_BYTES)
        except FileNotFoundError:
            raise CheckpointError(f"{path}: missing; only what 'gptoss convert' wrote can be verified") from None
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}; this is not a manifest") from error
        try:
            content = parse_json(data)
            version = content["format"]
            if version not in _READABLE:
                raise CheckpointError(
                    f"{path}: its format is {short_repr(version)}, this version reads {FORMAT}; update gptoss-mlx"
                )
            manifest = cls(
                source=content["source"],
                options=content["options"],
                files={name: FileEntry(**entry) for name, entry in content["files"].items()},
                tensors={
                    name: TensorEntry(**(entry | {"shape": tuple(entry["shape"])}))
                    for name, entry in content["tensors"].items()
                },
                format=version,
            )
            _check(manifest)
            unchanged = manifest.text().encode() == data
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            unchanged = False
        if not unchanged:
            raise CheckpointError(f"{path}: was changed since it was written; convert again")
        return manifest


def _check(manifest: Manifest) -> None:
    """Checks values and names: an attacker who writes the file can make its hash fit.

    Raises:
        ValueError: a value has the wrong type, or a name is not a plain file name.
    """
    for name, entry in manifest.files.items():
        if Path(name).name != name or not name.isprintable() or len(name.encode()) > MAX_NAME_BYTES:
            raise ValueError
        if type(entry.bytes) is not int or not 0 <= entry.bytes < 2**63:
            raise ValueError
    texts = [text for entry in manifest.tensors.values() for text in (entry.dtype, entry.file, entry.sha256)]
    texts += [entry.sha256 for entry in manifest.files.values()]
    if not all(isinstance(text, str) for text in texts) or not all(map(str.isprintable, manifest.tensors)):
        raise ValueError


def _encode(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
