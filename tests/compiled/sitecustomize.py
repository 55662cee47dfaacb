"""Keeps MLX's compilation on in every Python process that has this folder on its PYTHONPATH.

On a GPU models are compiled, on a CPU they are not. The tests of this folder run on a CPU what a GPU's user has.
"""

from __future__ import annotations

import mlx.core as mx


def _keep_compiling() -> None:
    """In the place of ``mx.disable_compile``."""


mx.disable_compile = _keep_compiling
