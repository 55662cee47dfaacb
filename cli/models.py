"""``gptoss models``: lists the models on this disk, and deletes converted ones."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence

import typer

from ..checkpoint.tensors import open_model
from ..errors import CheckpointError, InvalidRequest, ModelNotFound
from ..files.units import format_bytes
from ..hub.local import LM_STUDIO
from ..hub.models import DEMO, InstalledModel, clear_used, list_converted, list_models
from ..quantization import form_name
from .screen.spans import CYAN, DIM, Row, Span, shorten
from .screen.terminal import Terminal

__all__ = ["remove_models", "show_models"]


def show_models() -> None:
    """Prints a line for each model: name, size, precision, last use, path."""
    terminal = Terminal(sys.stdout)
    models = list_models()
    width = max((len(model.name) for model in models), default=0)
    forms = [_forms(model) for model in models]
    column = max(map(len, forms), default=0)
    for model, form in zip(models, forms, strict=True):
        row: Row = (
            Span(f"{model.name:<{width}}", CYAN),
            Span(f"  {format_bytes(model.nbytes):>9}  {form:<{column}}  {_when(model):<16}  "),
            Span(str(model.path), DIM),
        )
        terminal.rows([shorten(row, terminal.width - 1) if terminal.interactive else row])
    if not any(model.converted for model in models):
        terminal.line("get gpt-oss-20b with: gptoss convert 20b", DIM)


def remove_models(names: Sequence[str], *, confirmed: bool) -> None:
    """Deletes converted models, after asking.

    Raises:
        ModelNotFound: a name is not that of a converted model.
        InvalidRequest: deleting was not confirmed, and there is no terminal to ask in.
    """
    terminal = Terminal(sys.stdout)
    converted = {model.name: model for model in list_converted()}
    missing = [name for name in names if name not in converted]
    if missing:
        present = f"these can be deleted: {', '.join(converted)}" if converted else "there is none to delete"
        raise ModelNotFound(f"{missing[0]}: not a converted model on this disk; {present}")
    for name in dict.fromkeys(names):
        model = converted[name]
        if not confirmed:
            _confirm(model, terminal)
        shutil.rmtree(model.path)
        clear_used(name)
        terminal.line(f"deleted {name}: {format_bytes(model.nbytes)}")


def _confirm(model: InstalledModel, terminal: Terminal) -> None:
    if not sys.stdin.isatty():
        raise InvalidRequest(
            f"{model.name}: to delete it without being asked: gptoss models rm --yes {model.name}"
        )
    terminal.write(f"Delete {model.name}, {format_bytes(model.nbytes)} in {model.path}? [y/N] ")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        terminal.line("nothing was deleted")
        raise typer.Exit(1)


def _forms(model: InstalledModel) -> str:
    """The forms of most experts and of most dense layers; a question mark if it must be converted first."""
    try:
        config = open_model(model.path).config
    except CheckpointError:
        return "?"
    return f"{form_name(config.experts)}+{form_name(config.quantization)}"


def _when(model: InstalledModel) -> str:
    if model.last_used is None:
        return "never used" if model.converted else _origin(model)
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(model.last_used))


def _origin(model: InstalledModel) -> str:
    if model.name == DEMO:
        return "built in"
    return "LM Studio's" if model.name.startswith(LM_STUDIO) else "Hub download"
