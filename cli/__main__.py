"""Where the ``gptoss`` command begins, as does ``python -m gptoss_mlx.cli``.

Everything else is imported inside of it, so that Ctrl-C meanwhile ends it like any other.
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
