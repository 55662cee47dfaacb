"""``gptoss bench``: arguments and progress around ``gptoss_mlx.benchmark``.

Results go to stdout, progress and remarks to stderr. Ctrl-C shows the results so far.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import MachineSplit
from .screen.spans import DIM, Span

if TYPE_CHECKING:
    from ..benchmark import Benchmark
    from ..convert.precision import ExpertsPrecision
    from ..share import Split
    from .bench_report import Subject
    from .screen.terminal import Terminal

__all__ = ["measure_demo_quickly", "register"]

_QUICK: dict[str, Any] = {"depths": (512, 2048), "tokens": 16, "rounds": 1, "turns": 4, "rows": (1, 4)}


class Peer(str, Enum):  # noqa: UP042  (Typer reads the values of a str enumeration)
    """A program to compare with."""

    mlx_lm = "mlx-lm"


def register(app: typer.Typer) -> None:
    """Adds the command to an application."""
    app.command(name="bench")(bench)


def bench(
    model: Annotated[
        str, typer.Argument(help="demo, 20b, 120b, a converted model, a directory or a Hub repository.")
    ] = "demo",
    depths: Annotated[
        str | None, typer.Option(help="Prompt lengths in tokens; by default 512,2k,8k,32k.", metavar="N,N,…")
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens decoded after each prompt; by default 64.")] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Measurements of each length, of which the median counts; by default 3.")
    ] = None,
    turns: Annotated[int | None, typer.Option(help="Turns of the fixed chat, 0 to 10; by default 10.")] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Prompts of 512 and 2k tokens, 1 and 4 requests at once, and four turns; each once."
        ),
    ] = False,
    against: Annotated[
        Peer | None,
        typer.Option(help="Measure this program too, on the same weights, alternately, and show ratios."),
    ] = None,
    split: MachineSplit = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure how fast a model runs here: prompts, tokens, 1 to 8 requests at once, turns of a chat, memory.

    With --against mlx-lm the same weights are first exported to a temporary directory in mlx-lm's layout.

    mlx-lm rounds YaRN's frequencies, so its text may differ, but not the amount of work.
    """
    from ..benchmark import Benchmark, GptOssEngine, Plan
    from ..distributed.launched import launched
    from ..errors import InvalidRequest
    from ..tokenizer import Tokenizer
    from .bench_report import content, show
    from .machines import split_of
    from .screen.terminal import Terminal

    chosen = {"depths": _parsed_depths(depths), "tokens": tokens, "rounds": rounds, "turns": turns}
    given: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    plan = Plan(**((_QUICK if quick else {}) | given))
    subject = _subject(model, split_of(split))
    if subject.split is not None and against is not None:
        raise InvalidRequest("--against measures on one machine; leave it out, or start one")
    if launched()[0] > 0:
        GptOssEngine(subject.directory, subject.split)  # takes part until the first machine has ended
    tokenizer = Tokenizer.from_directory(subject.directory)
    remarks = Terminal(sys.stderr)
    say = _progress(remarks)
    benchmark = Benchmark(plan, subject.config, tokenizer, device=subject.device, progress=say)
    for skip in benchmark.skipped:
        remarks.line(f"{skip.depth:,} tokens skipped: {skip.reason}")
    interrupted = False
    try:
        with remarks.live():
            _measure(benchmark, subject, against, remarks, say)
    except KeyboardInterrupt:
        interrupted = True
        remarks.line("interrupted: these are the results so far")
    if as_json:
        typer.echo(json.dumps(content(benchmark, subject, interrupted=interrupted), indent=2))
    else:
        show(benchmark, subject)
    if interrupted:
        raise KeyboardInterrupt


def _parsed_depths(text: str | None) -> tuple[int, ...] | None:
    """``512,2k`` -> (512, 2048)."""
    from ..errors import InvalidRequest

    if text is None:
        return None
    depths = []
    for word in text.replace(" ", "").lower().split(","):
        digits, factor = (word[:-1], 1024) if word.endswith("k") else (word, 1)
        if not (digits.isascii() and digits.isdigit()):
            raise InvalidRequest(f"--depths {text!r}: {word!r} is not a length; write them as 512,2k,8k")
        depths.append(int(digits) * factor)
    return tuple(depths)


def _subject(model: str, split: Split | None = None) -> Subject:
    from ..checkpoint.tensors import open_model
    from ..distributed.launched import launched
    from ..hub import models as hub
    from ..memory.bandwidth import memory_bandwidth
    from ..memory.budget import Budget
    from ..memory.device import DeviceInfo
    from .bench_report import Subject

    directory = hub.resolve(model)
    config, device = open_model(directory).config, DeviceInfo.current()
    machines = 1 if split is None else launched()[1]
    if split is None:
        Budget(config=config, device=device, source=directory).check_load()
    else:  # with all their memory; loading checks that each has enough
        device = replace(
            device, memory_bytes=device.memory_bytes * machines, gpu_bytes=device.gpu_bytes * machines
        )
    return Subject(
        name=model,
        directory=directory,
        config=config,
        device=device,
        bandwidth=memory_bandwidth(device.name),
        split=split,
        machines=machines,
    )


def _measure(
    benchmark: Benchmark, subject: Subject, against: Peer | None, remarks: Terminal, say: Callable[[str], None]
) -> None:
    """Loads the engines and measures them: alternately if both fit, otherwise one after the other."""
    from ..benchmark import GptOssEngine, MlxLmEngine
    from ..memory.sizes import weight_bytes

    with contextlib.ExitStack() as stack:
        directory = subject.directory
        openers: list[Callable[[], Any]] = [lambda: GptOssEngine(directory, subject.split)]
        if against is not None:
            say("exporting the weights for mlx-lm")
            exported = _export(subject, Path(stack.enter_context(tempfile.TemporaryDirectory())))
            openers.append(lambda: MlxLmEngine(exported))
        together = len(openers) * weight_bytes(subject.config) <= 0.8 * subject.device.gpu_bytes
        if not together and against is not None:
            remarks.line("both do not fit into memory together: they are measured one after the other")
        for group in [openers] if together else [[opener] for opener in openers]:
            say("loading")
            with contextlib.ExitStack() as open_engines:
                engines = []
                for opener in group:
                    engines.append(opener())
                    open_engines.callback(engines[-1].close)
                benchmark.measure(engines)


def measure_demo_quickly() -> dict[str, Any]:
    """The results of ``gptoss bench demo --quick`` as plain data, without paths."""
    from ..benchmark import Benchmark, Plan
    from ..hub.models import DEMO
    from ..tokenizer import Tokenizer
    from .bench_report import content
    from .screen.terminal import Terminal

    subject, remarks = _subject(DEMO), Terminal(sys.stderr)
    tokenizer = Tokenizer.from_directory(subject.directory)
    benchmark = Benchmark(Plan(**_QUICK), subject.config, tokenizer, device=subject.device)
    _measure(benchmark, subject, None, remarks, lambda what: None)
    results = content(benchmark, subject, interrupted=False)
    del results["model"]["directory"]
    return results


def _export(subject: Subject, place: Path) -> Path:
    from ..convert import convert_checkpoint

    experts: ExpertsPrecision | None = "bf16" if subject.config.experts is None else None  # floats stay floats
    return convert_checkpoint(subject.directory, place / "mlx-lm", experts=experts, to="mlx-lm").destination


def _progress(terminal: Terminal) -> Callable[[str], None]:
    """Shows the current step in one line; nothing if stderr is not a terminal."""
    return lambda what: terminal.frame((), [(Span(what, DIM),)])
