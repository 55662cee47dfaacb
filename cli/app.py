"""The ``gptoss`` command: its subcommands and their flags. A subcommand's code is imported when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..arguments import DEFAULT_PARALLEL
from . import bench, convert, verify
from .errors import EdgeGroup, leave, open_missing_streams
from .options import (
    MCP,
    URL,
    Adapter,
    Allow,
    Context,
    Effort,
    Hostfile,
    KVBits,
    MachineSplit,
    MaxTokens,
    MinP,
    Model,
    Parallel,
    PythonCommand,
    Seed,
    System,
    Temperature,
    Think,
    ToolFile,
    TopK,
    TopP,
    describable_models,
    installed_models,
    saved_chats_like,
    setting_names,
)
from .parameters import CommandGroup, PromptCommand

if TYPE_CHECKING:
    from .settings import Settings

__all__ = ["app", "main"]

_OF_BATCH = {"batch", "output", "parallel", "model", "effort", "context", "kv_bits", "adapter"}
"""The parameters of ``run`` that go with ``--batch``."""

app = typer.Typer(
    name="gptoss",
    cls=EdgeGroup,
    help="Run OpenAI's gpt-oss on your Mac.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(
    cls=CommandGroup, help="Show the settings and where they come from, and change them.", no_args_is_help=True
)
app.add_typer(config_app, name="config")


def _settings(ctx: typer.Context) -> Settings:
    """The settings, in which the flags of the command come first."""
    from .settings import DEFAULTS, load_settings

    return load_settings(**{name: value for name, value in _given(ctx).items() if name in DEFAULTS})


def _given(ctx: typer.Context) -> dict[str, Any]:
    """The parameters of the command that the user gave, apart from those with a default."""
    return {
        name: value
        for name, value in ctx.params.items()
        if not (value is None or value is False or value in ([], ()))
    }


def _version(wanted: bool) -> None:
    if wanted:
        from .doctor import show_version

        show_version()
        raise typer.Exit


@app.callback()
def gptoss(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show versions and device.")
    ] = False,
) -> None:
    """Run OpenAI's gpt-oss on your Mac."""


@app.command(cls=PromptCommand)
def chat(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QUESTION",
            help="The first question; words are joined. After --resume: a part of the chat's title.",
            autocompletion=saved_chats_like,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("-r", "--resume", help="Go on with a saved chat: pick it, or name it.")
    ] = False,
    last: Annotated[bool, typer.Option("-c", "--continue", help="Go on with the last chat.")] = False,
    list_: Annotated[bool, typer.Option("-l", "--list", help="List the saved chats.")] = False,
    model: Model = None,
    effort: Effort = None,
    system: System = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    seed: Seed = None,
    max_tokens: MaxTokens = None,
    context: Context = None,
    kv_bits: KVBits = None,
    adapter: Adapter = None,
    think: Think = None,
    url: URL = None,
    hostfile: Hostfile = None,
    split: MachineSplit = None,
    mcp: MCP = None,
    tools: ToolFile = None,
    python: PythonCommand = None,
    allow: Allow = None,
) -> None:
    """Chat in the terminal."""
    from ..errors import InvalidRequest

    if resume and last:
        raise InvalidRequest("--resume and --continue: only one can be used at a time; leave one out")
    if list_:
        from .chat.saved import show_list

        show_list()
        return
    settings = _settings(ctx)
    from .chat.loop import Beginning, start_chat

    text = " ".join(words or ())
    beginning = Beginning(question="" if resume else text, resume=text if resume else None, last=last, model=model)
    if hostfile is None and split is None:
        start_chat(settings, beginning)
        return
    from .machines import on_machines

    with on_machines(settings, hostfile, split) as settings:
        start_chat(settings, beginning)


@app.command()
def run(
    ctx: typer.Context,
    question: Annotated[list[str] | None, typer.Argument(help="The question; words are joined.")] = None,
    file: Annotated[list[Path] | None, typer.Option("-f", "--file", help="A file as context; repeatable.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the whole reply as one JSON object.")] = False,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Print the events as they happen, one JSON object a line.")
    ] = False,
    schema: Annotated[Path | None, typer.Option(help="A JSON schema that the answer must follow.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End the answer at this text; repeatable.")] = None,
    batch: Annotated[
        Path | None,
        typer.Option(
            help="Answer the requests of this file, in OpenAI's batch form (JSON lines).", metavar="FILE.jsonl"
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Append the answers of --batch there; by default FILE.answers.jsonl.")
    ] = None,
    parallel: Parallel = DEFAULT_PARALLEL,
    model: Model = None,
    effort: Effort = None,
    system: System = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    seed: Seed = None,
    max_tokens: MaxTokens = None,
    context: Context = None,
    kv_bits: KVBits = None,
    adapter: Adapter = None,
    think: Think = None,
    url: URL = None,
    hostfile: Hostfile = None,
    split: MachineSplit = None,
    mcp: MCP = None,
    tools: ToolFile = None,
    python: PythonCommand = None,
    allow: Allow = None,
) -> None:
    """Answer one question: the answer on standard output, thinking on standard error.

    With --batch each line of a file is a request with a custom_id, a url (/v1/chat/completions or /v1/responses)
    and a body. Started again, the command goes on with the requests that have no answer yet.
    """
    from ..errors import InvalidRequest
    from .chat.run import Request, answer

    if json and jsonl:
        raise InvalidRequest("--json and --jsonl: only one can be used at a time; leave one out")
    if batch is not None and set(_given(ctx)) - _OF_BATCH:
        raise InvalidRequest("--batch takes everything but the model from its file; leave the other options out")
    if output is not None and batch is None:
        raise InvalidRequest("--output is for --batch; redirect the answer to a question with > FILE")
    settings = _settings(ctx)
    if batch is not None:
        from .batch import Batch, answer_batch

        answer_batch(Batch(requests=batch, output=output, parallel=parallel), settings)
        return
    request = Request(
        question=" ".join(question or ()),
        files=tuple(file or ()),
        form="json" if json else "jsonl" if jsonl else "text",
        schema=schema,
        stop=tuple(stop or ()),
    )
    if hostfile is None and split is None:
        answer(request, settings)
        return
    from .machines import on_machines

    with on_machines(settings, hostfile, split) as settings:
        answer(request, settings)


@app.command()
def serve(
    ctx: typer.Context,
    model: Model = None,
    host: Annotated[
        str, typer.Option(help="The address to listen at; one that other machines reach needs a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8080,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="GPTOSS_API_KEY",
            help="Answer only requests that have this key; - reads it from standard input.",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="A web page that may ask, such as http://localhost:3000; repeatable.", metavar="URL"),
    ] = None,
    hide_thinking: Annotated[bool, typer.Option("--hide-thinking", help="Never send the analysis.")] = False,
    effort: Effort = None,
    context: Context = None,
    kv_bits: KVBits = None,
    adapter: Adapter = None,
    split: MachineSplit = None,
    parallel: Parallel = DEFAULT_PARALLEL,
    owner: Annotated[int | None, typer.Option(hidden=True, help="End with this process.")] = None,
    mcp: MCP = None,
    tools: ToolFile = None,
    python: PythonCommand = None,
    allow: Allow = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Answer programs: OpenAI's chat and Responses APIs, and Anthropic's Messages.

    Up to --parallel requests are answered together. None can load, download or change a model.
    """
    from .machines import split_of
    from .serve import Address
    from .serve import serve as serve_model

    settings = _settings(ctx)
    if api_key == "-":
        api_key = sys.stdin.readline().strip()
    address = Address(host=host, port=port, api_key=api_key or None, origins=tuple(allow_origin or ()))
    serve_model(
        address,
        settings,
        hide_thinking=hide_thinking,
        quiet=quiet,
        split=split_of(split),
        parallel=parallel,
        owner=owner,
    )


@app.command()
def models(
    action: Annotated[str | None, typer.Argument(help="rm, to delete converted models.")] = None,
    names: Annotated[
        list[str] | None, typer.Argument(help="The models to delete.", autocompletion=installed_models)
    ] = None,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
) -> None:
    """List the models on this disk, or delete some: gptoss models rm NAME."""
    from ..errors import InvalidRequest
    from .models import remove_models, show_models

    if action is None:
        show_models()
    elif action == "rm" and names:
        remove_models(names, confirmed=yes)
    else:
        raise InvalidRequest("use gptoss models to list them, gptoss models rm NAME to delete one")


@app.command()
def info(
    model: Annotated[
        str,
        typer.Argument(
            help="As for chat; 20b and 120b work without a download.", autocompletion=describable_models
        ),
    ] = "20b",
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
    hostfile: Hostfile = None,
    split: MachineSplit = None,
) -> None:
    """Show a model's architecture, the memory it needs, and whether it fits this machine."""
    if hostfile is not None:
        from .hosts import show_shares

        show_shares(model, Path(hostfile), split, as_json=json)
        return
    from .info import show_info

    show_info(model, as_json=json)


@app.command()
def doctor(
    full: Annotated[
        bool, typer.Option("--full", help="Compute layers of the real widths too; takes minutes.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Write versions, machine and figures for an issue, without paths or names.", metavar="FILE"
        ),
    ] = None,
) -> None:
    """Check this machine: versions, device, memory, models, and whether it computes right."""
    from .doctor import examine

    examine(full=full, report=report)


@config_app.command("path")
def config_path() -> None:
    """Print the path of the settings file."""
    from .doctor import show_config_path

    show_config_path()


@config_app.command("show")
def config_show() -> None:
    """Show every setting and where it comes from."""
    from .doctor import show_config

    show_config()


@config_app.command("set")
def config_set(
    key: Annotated[
        str, typer.Argument(help="A setting, as gptoss config show lists them.", autocompletion=setting_names)
    ],
    value: Annotated[str, typer.Argument(help="Its value from now on.")],
) -> None:
    """Write a setting into the settings file."""
    from .doctor import change_config

    change_config(key, value)


@config_app.command("unset")
def config_unset(
    key: Annotated[str, typer.Argument(help="A setting.", autocompletion=setting_names)],
) -> None:
    """Remove a setting from the settings file: its default holds again."""
    from .doctor import change_config

    change_config(key, None)


convert.register(app)
verify.register(app)
bench.register(app)


def main() -> None:
    """The entry point."""
    open_missing_streams()
    try:
        app()
    except SystemExit as ended:
        leave(ended)
