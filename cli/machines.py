"""Several machines on the command line: how they divide a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

if TYPE_CHECKING:
    from ..share import Split

__all__ = ["SplitOption", "split_of"]

SplitOption = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="Under mlx.launch, how its machines divide the model: pipeline (layers) or tensor (every layer).",
        metavar="FORM",
    ),
]


def split_of(split: str | None) -> Split | None:
    """How the machines that ``mlx.launch`` has started divide a model; None if this one is alone.

    Args:
        split: the option's value.

    Raises:
        InvalidRequest: another value.
    """
    from ..distributed.launched import default_split
    from ..errors import InvalidRequest
    from ..share import Split

    if split is not None and split not in get_args(Split):
        raise InvalidRequest(f"--split is {split!r}; {' or '.join(get_args(Split))} is needed")
    default = default_split()
    return default if default is None or split is None else cast("Split", split)
