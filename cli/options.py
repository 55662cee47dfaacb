"""Options that several commands have, and what the shell completes."""

from __future__ import annotations

from typing import Annotated

import typer

from ..arguments import MAX_PARALLEL

__all__ = [
    "MCP",
    "URL",
    "Adapter",
    "Allow",
    "Context",
    "Effort",
    "Hostfile",
    "KVBits",
    "MachineSplit",
    "MaxTokens",
    "MinP",
    "Model",
    "Parallel",
    "PythonCommand",
    "Seed",
    "System",
    "Temperature",
    "Think",
    "ToolFile",
    "TopK",
    "TopP",
    "describable_models",
    "efforts",
    "installed_models",
    "saved_chats_like",
    "setting_names",
    "think_modes",
]


def installed_models(incomplete: str) -> list[str]:
    """For the shell's completion: the models on this disk."""
    from ..hub.models import list_models

    return [model.name for model in list_models() if model.name.startswith(incomplete)]


def describable_models(incomplete: str) -> list[str]:
    """For the shell's completion: the models on this disk and the released ones."""
    from ..config import RELEASED

    released = [name for name in RELEASED if name.startswith(incomplete)]
    return list(dict.fromkeys(installed_models(incomplete) + released))


def saved_chats_like(incomplete: str) -> list[tuple[str, str]]:
    """For the shell's completion: the saved chats with their titles."""
    from .chat.saved import saved_chats

    return [(chat.name, chat.title) for chat in saved_chats() if chat.name.startswith(incomplete)]


def setting_names(incomplete: str) -> list[str]:
    from .settings import DEFAULTS

    return [name for name in DEFAULTS if name.startswith(incomplete)]


def efforts(incomplete: str) -> list[str]:
    from .settings import EFFORTS

    return [effort for effort in EFFORTS if effort.startswith(incomplete)]


def think_modes(incomplete: str) -> list[str]:
    from .settings import THINK_MODES

    return [mode for mode in THINK_MODES if mode.startswith(incomplete)]


Model = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--model",
        help="demo, 20b, 120b, a converted model, a directory or a Hub repository.",
        autocompletion=installed_models,
    ),
]
Effort = Annotated[
    str | None,
    typer.Option("-e", "--effort", help="How long to think: low, medium or high.", autocompletion=efforts),
]
System = Annotated[str | None, typer.Option("-s", "--system", help="Instructions for the whole chat.")]
Temperature = Annotated[
    float | None, typer.Option(help="0: always the likeliest token; gpt-oss was trained for 1.")
]
TopP = Annotated[float | None, typer.Option(help="Sample from the smallest set of tokens with this probability.")]
TopK = Annotated[int | None, typer.Option(help="Sample from so many of the likeliest tokens; 0: from all.")]
MinP = Annotated[
    float | None, typer.Option(help="Leave out tokens less likely than this share of the likeliest one.")
]
Seed = Annotated[int | None, typer.Option(help="The same seed, prompt and cache give the same answer.")]
MaxTokens = Annotated[int | None, typer.Option(help="Stop after this many tokens, thinking included.")]
Context = Annotated[int | None, typer.Option(help="The most tokens of a conversation; fewer take less memory.")]
KVBits = Annotated[int | None, typer.Option(help="8: keep the cache in 8 bits, which takes less memory.")]
Adapter = Annotated[
    str | None,
    typer.Option(help="A LoRA adapter of attention and routers, a directory; others: gptoss convert."),
]
Think = Annotated[
    str | None,
    typer.Option(
        help="Show thinking: show, dim, fold or hide. It is not trained to the safety standard of answers.",
        autocompletion=think_modes,
    ),
]
Parallel = Annotated[
    int, typer.Option(min=1, max=MAX_PARALLEL, help="The most requests that run together, where memory allows.")
]
URL = Annotated[
    str | None,
    typer.Option("--url", help="Use the model that gptoss serve has there; its key is in GPTOSS_API_KEY."),
]

MCP = Annotated[
    str | None,
    typer.Option("--mcp", metavar="FILE", help="Servers of MCP: the JSON that Claude Desktop and Cursor have."),
]
ToolFile = Annotated[
    str | None,
    typer.Option("--tools", metavar="FILE", help="A file of Python: its functions are tools, and run as you."),
]
PythonCommand = Annotated[
    str | None,
    typer.Option("--python", metavar="COMMAND", help="Starts Python for the model's code, and isolates it."),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(metavar="TOOL", help="A tool that runs without a question: time.*; repeatable."),
]
MachineSplit = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="How several machines divide the model: pipeline (whole layers) or tensor (a part of every layer).",
        metavar="FORM",
    ),
]
Hostfile = Annotated[
    str | None,
    typer.Option(
        "--hostfile",
        help="Use the machines of this file of mlx.launch together; mlx.distributed_config writes it.",
        metavar="FILE",
    ),
]
