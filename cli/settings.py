"""The settings of ``chat`` and ``run``: a flag overrides a ``GPTOSS_*`` variable, and that the TOML file.

Checks the command line's own settings; the library checks those that it takes.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

from ..arguments import Effort
from ..errors import GptOssError, InvalidRequest
from ..files.read import read_regular, short_repr
from ..files.write import as_path, write_text
from ..sampling import SamplingParams

__all__ = [
    "DEFAULTS",
    "EFFORTS",
    "STATS_LINES",
    "THINK_MODES",
    "Settings",
    "StatsLine",
    "ThinkMode",
    "as_effort",
    "as_setting",
    "as_stats_line",
    "as_think_mode",
    "config_path",
    "data_path",
    "explain_settings",
    "is_utf8",
    "load_settings",
    "toml_line",
    "write_setting",
]

ThinkMode = Literal["show", "dim", "fold", "hide"]
StatsLine = Literal["off", "short", "full"]
EFFORTS: tuple[Effort, ...] = get_args(Effort)
THINK_MODES: tuple[ThinkMode, ...] = get_args(ThinkMode)
STATS_LINES: tuple[StatsLine, ...] = get_args(StatsLine)

_WARMEST = 2.0
"""Above this temperature answers are mostly noise."""
_LARGEST = 1024**2
"""Bytes of a settings file, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings that ``chat`` and ``run`` share. None: not set anywhere."""

    model: str | None = None
    effort: Effort = "medium"
    system: str | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    context: int | None = None
    kv_bits: int | None = None
    adapter: str | None = None
    think: ThinkMode = "fold"
    url: str | None = None
    """Of a server that has the model."""
    stats_line: StatsLine = "short"
    """The figures after an answer of ``chat``."""
    mcp: str | None = None
    """The file with the servers of MCP."""
    tools: str | None = None
    """A file of Python, whose functions the model may call."""
    python: str | None = None
    """The command that starts Python for the model's code."""
    allow: tuple[str, ...] = ()
    """Patterns of the tools that run without a question."""
    ask: tuple[str, ...] = ()
    """Patterns of the tools that run only after a question, whatever ``allow`` says."""
    deny: tuple[str, ...] = ()
    """Patterns of the tools that never run."""
    max_steps: int = 32
    """How often the model may generate in one answer; each time but the last it may call tools."""
    tool_seconds: int = 600
    """After so long no more calls of an answer begin."""

    @property
    def loading(self) -> dict[str, Any]:
        """The options of ``gptoss_mlx.load``."""
        return {"context": self.context, "kv_bits": self.kv_bits, "adapter": self.adapter}

    def sampling(self, stop: tuple[str, ...] = (), *, stop_loops: bool = False) -> SamplingParams:
        """How tokens are chosen, as the library takes it."""
        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            seed=self.seed,
            max_tokens=self.max_tokens,
            stop=stop,
            stop_loops=stop_loops,
        )

    @property
    def warning(self) -> str:
        """A remark on a value that is allowed but probably a mistake; empty: none."""
        if self.temperature <= _WARMEST:
            return ""
        return f"temperature {self.temperature:g}: above {_WARMEST:g} answers are mostly noise; use 1"


_TYPES: Mapping[str, type] = {
    "model": str,
    "effort": str,
    "system": str,
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "seed": int,
    "max_tokens": int,
    "context": int,
    "kv_bits": int,
    "adapter": str,
    "think": str,
    "url": str,
    "stats_line": str,
    "mcp": str,
    "tools": str,
    "python": str,
    "allow": tuple,
    "ask": tuple,
    "deny": tuple,
    "max_steps": int,
    "tool_seconds": int,
}
_KINDS: Mapping[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    tuple: "a list of texts",
}
_CHOICES: Mapping[str, tuple[Any, ...]] = {
    "effort": EFFORTS,
    "think": THINK_MODES,
    "stats_line": STATS_LINES,
    "kv_bits": (8,),
}
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed", "max_tokens")
DEFAULTS: Mapping[str, Any] = {entry.name: entry.default for entry in fields(Settings)}


def config_path() -> Path:
    """The TOML file: ``GPTOSS_CONFIG``, or in the user's configuration directory. It may not exist."""
    override = os.environ.get("GPTOSS_CONFIG")
    if override:
        return as_path(override)
    import platformdirs

    return platformdirs.user_config_path("gptoss") / "config.toml"


def data_path(name: str) -> Path:
    """A path in the user's data directory, where chats and history are."""
    import platformdirs

    return platformdirs.user_data_path("gptoss") / name


def load_settings(**flags: Any) -> Settings:
    """Settings from the flags that are not None, the environment, the file and the defaults.

    Raises:
        InvalidRequest: a value out of its range; the message says where it is set.
        GptOssError: the file cannot be read.
    """
    values = {name: value for name, value, _ in explain_settings(flags) if value is not None}
    if flags.get("model") is not None and flags.get("url") is not None:
        raise InvalidRequest("--model and --url: the server has its own model; leave one of them out")
    if flags.get("model") is not None:
        values.pop("url", None)
    of_loading = [name for name in ("adapter", "context", "kv_bits") if flags.get(name) is not None]
    if of_loading and "url" in values:
        option = f"--{of_loading[0].replace('_', '-')}"
        raise InvalidRequest(
            f"{option}: the server at {values['url']} has loaded its model; gptoss serve takes that option"
        )
    return Settings(**values)


def explain_settings(flags: Mapping[str, Any] | None = None) -> list[tuple[str, Any, str]]:
    """Every setting: its name, its value and where that comes from."""
    path = config_path()
    file = _read_file(path)
    explained: list[tuple[str, Any, str]] = []
    for entry in fields(Settings):
        name, variable = entry.name, f"GPTOSS_{entry.name.upper()}"
        if flags is not None and flags.get(name) is not None:
            explained.append((name, _checked(name, flags[name], f"--{name.replace('_', '-')}"), "flag"))
        elif os.environ.get(variable):
            explained.append((name, as_setting(name, os.environ[variable], variable), variable))
        elif name in file:
            explained.append((name, _checked(name, file[name], f"{path}: {name}"), str(path)))
        else:
            explained.append((name, entry.default, "default"))
    return explained


def as_setting(name: str, text: str, where: str) -> Any:
    """``text`` as the value of a setting.

    Args:
        where: the place of the text, for the error.

    Raises:
        InvalidRequest: it is not one.
    """
    return _checked(name, _converted(name, text, where), where)


def write_setting(name: str, value: Any) -> Path:
    """Write a setting into the settings file, in place of its line if there is one; returns the path of the file.

    Comments and other lines stay, unless they cannot be kept apart from the setting's own.

    Args:
        value: None removes the setting.

    Raises:
        FileWriteError: the file cannot be written.
    """
    path = config_path()
    if path == Path(os.devnull):
        raise InvalidRequest("GPTOSS_CONFIG is /dev/null, so no settings are kept; name a file there, or unset it")
    wanted = {key: old for key, old in _read_file(path).items() if key != name}
    lines = read_regular(path, _LARGEST).decode("utf-8").splitlines() if path.exists() else []
    own = [number for number, line in enumerate(lines) if re.match(rf"\s*{name}\s*=", line)]
    kept = [line for number, line in enumerate(lines) if number not in own]
    if value is not None:
        wanted[name] = value
        kept.insert(own[0] if own else len(kept), toml_line(name, value))
    text = "".join(f"{line}\n" for line in kept)
    try:
        whole = tomllib.loads(text) == wanted
    except ValueError:
        whole = False
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text if whole else "".join(f"{toml_line(key, wanted[key])}\n" for key in wanted))
    return path


def toml_line(name: str, value: Any) -> str:
    """A setting as a line of the settings file."""
    if isinstance(value, tuple | list):
        items = (toml_line("", item).removeprefix(" = ") for item in value)
        return f"{name} = [{', '.join(items)}]"
    if not isinstance(value, str):
        return f"{name} = {value}"
    quoted = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"{name} = {quoted}"


def _read_file(path: Path) -> dict[str, Any]:
    if path == Path(os.devnull):
        return {}
    try:
        values = tomllib.loads(read_regular(path, _LARGEST).decode("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise GptOssError(
            f"{path}: cannot be read ({error.strerror or error}); correct or delete the file"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path}: {_reason(error)}; correct or delete the file") from error
    unknown = sorted(set(values) - set(_TYPES))
    if unknown:
        raise InvalidRequest(f"{path}: {short_repr(unknown[0])}: no such setting; there are {', '.join(_TYPES)}")
    return values


def _reason(error: Exception) -> str:
    """The reason that a settings file cannot be read, without Python's own words."""
    if isinstance(error, UnicodeDecodeError):
        return f"is not UTF-8 text (byte {error.start})"
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    return "has a number that is too long" if "sys.set_int_max_str_digits" in str(error) else str(error)


def _converted(name: str, text: str, where: str) -> Any:
    if _TYPES[name] is tuple:
        return text.replace(",", " ").split()
    try:
        return _TYPES[name](text)
    except ValueError as error:
        raise InvalidRequest(f"{where} is {short_repr(text)}; {_KINDS[_TYPES[name]]} is needed") from error


def _checked(name: str, value: Any, where: str) -> Any:
    expected = _TYPES[name]
    if expected is float and type(value) is int:
        value = float(value)
    if expected is tuple and isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = tuple(value)
    if type(value) is not expected:
        raise InvalidRequest(f"{where} is {short_repr(value)}; {_KINDS[expected]} is needed")
    if not all(map(is_utf8, value if isinstance(value, tuple) else [str(value)])):
        raise InvalidRequest(f"{where} is {value}, which is not UTF-8 text")
    choices = _CHOICES.get(name)
    if choices is not None and isinstance(value, str):
        value = value.lower()
    if choices is not None and value not in choices:
        which = f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
        raise InvalidRequest(f"{where} is {short_repr(value)}; {which} is needed")
    if name in ("max_steps", "tool_seconds") and value < 1:
        raise InvalidRequest(f"{where} is {value}; a number from 1 on is needed")
    if name in _SAMPLING:
        _check_sampling(name, value, where)
    return value


def is_utf8(text: str) -> bool:
    """Whether ``text`` holds no byte that Python could not decode."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _check_sampling(name: str, value: Any, where: str) -> None:
    """The library checks the range; the error names the place of the value."""
    try:
        SamplingParams(**{name: value})
    except InvalidRequest as error:
        raise InvalidRequest(str(error).replace(name, where, 1)) from error


def as_effort(text: str) -> Effort:
    """``text`` as an effort; a unique beginning will do.

    Raises:
        InvalidRequest: it is not one.
    """
    return cast(Effort, _choice("effort", text, EFFORTS))


def as_think_mode(text: str) -> ThinkMode:
    """``text`` as a way to show thinking; a unique beginning will do.

    Raises:
        InvalidRequest: it is not one.
    """
    return cast(ThinkMode, _choice("think", text, THINK_MODES))


def as_stats_line(text: str) -> StatsLine:
    """``text`` as a form of the line of figures; a unique beginning will do.

    Raises:
        InvalidRequest: it is not one.
    """
    return cast(StatsLine, _choice("line", text, STATS_LINES))


def _choice(name: str, text: str, choices: tuple[str, ...]) -> str:
    matches = [choice for choice in choices if choice.startswith(text.lower())]
    if not text or len(matches) != 1:
        raise InvalidRequest(f"{name} is {text!r}; one of {', '.join(choices)} is needed")
    return matches[0]
