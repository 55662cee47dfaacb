"""The machines of a hostfile, and what each would hold of a model: ``gptoss info MODEL --hostfile FILE``."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from ..errors import GptOssError, InvalidRequest, NotEnoughMemory
from ..files.read import parse_json, read_regular
from ..files.units import format_bytes
from .screen.spans import BOLD, DIM, GREEN, RED, Row, Span
from .screen.terminal import Terminal

if TYPE_CHECKING:
    from ..config import ModelConfig
    from ..memory.device import DeviceInfo
    from ..share import Split

__all__ = ["Host", "checked_split", "hosts_of", "show_shares"]

_MAX_HOSTFILE: Final = 2**20
_MAX_ANSWER: Final = 2**20
_ASKING_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine of a hostfile."""

    ssh: str
    """Its name for ssh."""
    fast: bool = False
    """Whether it is connected by RDMA."""

    @property
    def is_this_machine(self) -> bool:
        """Whether ``mlx.launch`` starts its process without ssh."""
        return self.ssh == "127.0.0.1"


def hosts_of(path: Path) -> list[Host]:
    """The machines of a hostfile.

    Raises:
        InvalidRequest: it cannot be read, or is no hostfile.
    """
    try:
        content: Any = parse_json(read_regular(path, _MAX_HOSTFILE))
        backend = content.get("backend", "") if isinstance(content, dict) else ""
        listed = content["hosts"] if isinstance(content, dict) else content
        hosts = [Host(ssh=str(entry["ssh"]), fast=str(backend).startswith("jaccl")) for entry in listed]
    except OSError as error:
        raise InvalidRequest(f"{path}: {(error.strerror or str(error)).lower()}; name a hostfile") from error
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"{path}: is no hostfile of mlx.launch; mlx.distributed_config writes one") from error
    if len(hosts) < 2:
        raise InvalidRequest(f"{path}: names {len(hosts)} machines; two or more are needed")
    return hosts


def checked_split(split: str) -> Split:
    """The value of ``--split``.

    Raises:
        InvalidRequest: there is no such form.
    """
    from ..share import Split

    if split not in get_args(Split):
        raise InvalidRequest(f"--split is {split!r}; {' or '.join(get_args(Split))} is needed")
    return cast("Split", split)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What a machine says of itself."""

    device: DeviceInfo
    bandwidth: float | None
    directory: str | None
    """Of the model there; None if it is not."""


def show_shares(reference: str, hostfile: Path, split: str | None, *, as_json: bool) -> None:
    """Prints what each machine would hold, whether it fits, and how fast they can be together.

    Raises:
        InvalidRequest: it is no hostfile, or there are more machines than parts.
        GptOssError: a machine cannot be asked.
    """
    hosts = hosts_of(hostfile)
    form: Split = checked_split(split) if split else "tensor" if hosts[0].fast else "pipeline"
    config, source = _model(reference)
    with ThreadPoolExecutor(len(hosts)) as pool:
        answers = list(pool.map(lambda host: _ask(host, reference), hosts))
    content = describe_shares(config, form, hosts, answers, source)
    terminal = Terminal(sys.stdout)
    if as_json:
        terminal.line(json.dumps(content, indent=2))
    else:
        terminal.rows(_rows(reference, content))


def _model(reference: str) -> tuple[ModelConfig, str | None]:
    """The model's config, and where it is on this machine."""
    from ..checkpoint.tensors import open_model
    from ..config import RELEASED
    from ..errors import ModelNotFound
    from ..hub.models import resolve

    try:
        directory = resolve(reference)
    except ModelNotFound:
        if reference not in RELEASED:
            raise
        return RELEASED[reference], None
    return open_model(directory).config, str(directory)


def _ask(host: Host, reference: str) -> _Answer:
    """What a machine says of itself: through ssh, unless it is this one."""
    from ..memory.device import DeviceInfo

    command = [sys.executable, "-m", "gptoss_mlx.cli", "info", reference, "--json"]
    if not host.is_this_machine:
        command = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", host.ssh, shlex.join(command)]
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ASKING_SECONDS, check=False
        )
        said: Any = parse_json(ended.stdout[:_MAX_ANSWER])
        device = said["device"]
        known = {name: device[name] for name in ("name", "memory_bytes", "gpu_bytes", "is_mac")}
        return _Answer(device=DeviceInfo(**known), bandwidth=device["bandwidth"], directory=said["directory"])
    except subprocess.TimeoutExpired as error:
        raise GptOssError(f"{host.ssh}: does not answer within {_ASKING_SECONDS:.0f} seconds") from error
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        text = ended.stderr.decode(errors="replace").strip() if "ended" in locals() else str(error)
        raise GptOssError(
            f"{host.ssh}: cannot be asked; 'ssh {host.ssh} {sys.executable} -m gptoss_mlx.cli info' must work "
            f"there ({text[-200:] or 'no answer'})"
        ) from error


def describe_shares(
    config: ModelConfig, split: Split, hosts: Sequence[Host], answers: Sequence[_Answer], source: str | None
) -> dict[str, Any]:
    """Everything that is printed, as plain data."""
    from ..distributed.split import bytes_sent, divide
    from ..memory.budget import Budget
    from ..memory.sizes import bytes_per_token

    shares = divide(config, split, [answer.device.gpu_bytes for answer in answers])
    directory = None if source is None else Path(source)
    budgets = [
        Budget(config=config, device=answer.device, share=share, source=directory)
        for answer, share in zip(answers, shares, strict=True)
    ]
    seconds = [
        bytes_per_token(config, share=share) / answer.bandwidth if answer.bandwidth else None
        for answer, share in zip(answers, shares, strict=True)
    ]
    known = [each for each in seconds if each is not None]
    together = (max if split == "tensor" else sum)(known) if len(known) == len(seconds) else None
    messages, sent = bytes_sent(config, split, len(hosts))
    return {
        "split": split,
        "machines": [
            {
                "host": host.ssh,
                "device": answer.device.name,
                "gpu_bytes": answer.device.gpu_bytes,
                "layers": [budget.share.layers.start, budget.share.layers.stop] if budget.share else None,
                "key_value_heads": len(budget.share.heads) if budget.share else None,
                "weight_bytes": budget.weight_bytes,
                "fits": budget.fits,
                "context": budget.positions if budget.fits else 0,
                "problem": _problem(budget),
                "copy": _copy(source, host) if answer.directory is None else None,
            }
            for host, answer, budget in zip(hosts, answers, budgets, strict=True)
        ],
        "tokens_per_second_limit": None if together is None else 1 / together,
        "messages_per_token": messages,
        "bytes_sent_per_token": sent,
    }


def _problem(budget: Any) -> str | None:
    try:
        budget.check_load()
    except NotEnoughMemory as error:
        return str(error)
    return None


def _copy(source: str | None, host: Host) -> str:
    """The command that brings the model to a machine."""
    if source is None:
        return "the model is on neither machine; gptoss convert gets it"
    return f"ssh {shlex.quote(host.ssh)} mkdir -p {shlex.quote(source)} && " + shlex.join(
        ["rsync", "-a", "--info=progress2", f"{source}/", f"{host.ssh}:{source}/"]
    )


def _rows(reference: str, content: dict[str, Any]) -> list[Row]:
    machines = content["machines"]
    rows: list[Row] = [(Span(f"{reference} over {len(machines)} machines ({content['split']})", BOLD),)]
    for number, machine in enumerate(machines):
        first, after = machine["layers"]
        held = f"layers {first} to {after - 1}, {machine['key_value_heads']} key-value heads, "
        held += f"{format_bytes(machine['weight_bytes'])} of {format_bytes(machine['gpu_bytes'])}  "
        fits = f"fits, with {machine['context']:,} tokens of context"
        verdict = Span(fits, GREEN) if machine["fits"] else Span("does not fit", RED)
        rows += [(), (Span(f"  {number}  {machine['host']}", BOLD), Span(f"  {machine['device']}"))]
        rows.append((Span(f"     {held}"), verdict))
        rows += [(Span(f"     {machine[name]}", DIM),) for name in ("problem", "copy") if machine[name]]
    limit = content["tokens_per_second_limit"]
    sent = f"{content['messages_per_token']} exchanges and {format_bytes(content['bytes_sent_per_token'])} a token"
    speed = f"at most {limit:.0f} tokens/s, without the time of the network" if limit else "a bandwidth is unknown"
    return [*rows, (), (Span(f"  {speed}; {sent}"),)]
