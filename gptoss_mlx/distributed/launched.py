"""What ``mlx.launch`` has prepared for this process, read from its environment. Imports no MLX."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ..files.read import parse_json, read_regular
from ..share import Split

__all__ = ["backend_name", "default_split", "launched", "leader_address"]

_MAX_HOSTFILE: Final = 2**20


def launched() -> tuple[int, int]:
    """The rank of this process, and the number of machines that ``mlx.launch`` has started."""
    backend = backend_name()
    if backend is None:
        return 0, 1
    rdma = parse_json(_read_prepared("MLX_IBV_DEVICES")) if backend == "jaccl" else []
    return int(os.environ["MLX_RANK"]), len(rdma or _ring_hosts())


def default_split() -> Split | None:
    """How ``gptoss`` divides a model unless it is told: None if this process is alone. Tensor form needs the fast
    connections of JACCL, because it exchanges twice a layer."""
    if launched()[1] == 1:
        return None
    return "tensor" if backend_name() == "jaccl" else "pipeline"


def backend_name() -> str | None:
    """The backend that ``mlx.launch`` has prepared."""
    if "MLX_RANK" not in os.environ:
        return None
    if "MLX_IBV_DEVICES" in os.environ:
        return "jaccl"
    return "ring" if len(_ring_hosts()) > 1 else None


def _ring_hosts() -> list[list[str]]:
    """The addresses of each machine as ``mlx.launch`` has written them down; none for a single machine."""
    content = _read_prepared("MLX_HOSTFILE")
    hosts: list[list[str]] = parse_json(content) if content else []
    return hosts


def _read_prepared(variable: str) -> bytes:
    """A file that ``mlx.launch`` has made for this process."""
    path = os.environ.get(variable)
    return read_regular(Path(path), _MAX_HOSTFILE).strip() if path else b""


def leader_address() -> str:
    """The address of the first machine, which the others reach."""
    if backend_name() == "jaccl":
        return os.environ["MLX_JACCL_COORDINATOR"].rpartition(":")[0]
    return _ring_hosts()[0][0].rpartition(":")[0]
