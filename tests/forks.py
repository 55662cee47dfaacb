"""Work done in a fork of this process, which can fail or be killed at any moment without ending this one.

A process that has used MLX cannot fork children that use it: its threads do not come along.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable

from gptoss_mlx.errors import GptOssError

__all__ = ["begin", "end_of", "in_fork"]


def begin(work: Callable[[], int | None]) -> int:
    """Forks; the child does the work and exits with what it returns (0 for None), or 1 for a typed error.

    Returns:
        The child's process id.
    """
    sys.stdout.flush()
    with warnings.catch_warnings():
        # From Python 3.12 on, of threads: none of them is needed in the child.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    status = 2
    try:
        status = work() or 0
    except GptOssError:
        status = 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def end_of(child: int) -> int:
    """Waits for a child: its exit status, or the signal that ended it, negative."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_fork(work: Callable[[], int | None]) -> int:
    """How a fork that does the work ends: see :func:`begin` and :func:`end_of`."""
    return end_of(begin(work))
