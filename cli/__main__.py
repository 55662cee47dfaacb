"""The entry point of ``gptoss`` and of ``python -m gptoss_mlx.cli``.

Everything is imported inside it, so that Ctrl-C during the imports ends the program as at any other time.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """The entry point."""
    try:
        from .app import main as start

        start()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
