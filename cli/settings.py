"""Where a setting comes from: flag, then ``GPTOSS_*`` variable, then the TOML file, then the default.

Knows the names and ranges of the command line's own settings; the library checks its own.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

from ..arguments import Effort
from ..errors import GptOssError, InvalidRequest
from ..files.write import as_path
from ..sampling import SamplingParams

__all__ = [
    "EFFORTS",
    "THINK_MODES",
    "Settings",
    "ThinkMode",
    "as_effort",
    "as_think_mode",
    "config_path",
    "data_path",
    "explain_settings",
    "load_settings",
]

ThinkMode = Literal["show", "dim", "collapse", "hide"]
EFFORTS: tuple[Effort, ...] = ("low", "medium", "high")
THINK_MODES: tuple[ThinkMode, ...] = ("show", "dim", "collapse", "hide")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What ``chat`` and ``run`` share. None: not set anywhere."""

    model: str | None = None
    effort: Effort = "medium"
    system: str | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int | None = None
    context: int | None = None
    kv_bits: int | None = None
    think: ThinkMode = "collapse"

    @property
    def loading(self) -> dict[str, Any]:
        """How a model is loaded, as the library takes it."""
        return {"context": self.context, "kv_bits": self.kv_bits}

    def sampling(self, stop: tuple[str, ...] = (), *, stop_loops: bool = False) -> SamplingParams:
        """As the library takes it."""

        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            max_tokens=self.max_tokens,
            stop=stop,
            stop_loops=stop_loops,
        )


_TYPES: Mapping[str, type] = {
    "model": str,
    "effort": str,
    "system": str,
    "temperature": float,
    "top_p": float,
    "seed": int,
    "max_tokens": int,
    "context": int,
    "kv_bits": int,
    "think": str,
}
_KINDS: Mapping[type, str] = {str: "text", int: "a whole number", float: "a number"}
_CHOICES: Mapping[str, tuple[Any, ...]] = {"effort": EFFORTS, "think": THINK_MODES, "kv_bits": (8,)}
_SAMPLING = ("temperature", "top_p", "seed", "max_tokens")


def config_path() -> Path:
    """The TOML file: ``GPTOSS_CONFIG``, or in the user's configuration directory. Need not exist."""
    override = os.environ.get("GPTOSS_CONFIG")
    if override:
        return as_path(override)
    import platformdirs

    return platformdirs.user_config_path("gptoss") / "config.toml"


def data_path(name: str) -> Path:
    """A place for the user's chats and history, beside the models."""
    import platformdirs

    return platformdirs.user_data_path("gptoss") / name


def load_settings(**flags: Any) -> Settings:
    """Settings from the flags that are not None, the environment, the file and the defaults.

    Raises:
        InvalidRequest: a value that cannot be; says where it stands.
        GptOssError: the file cannot be read.
    """
    values: dict[str, Any] = {}
    for name, value, _ in explain_settings(flags):
        if value is not None:
            values[name] = value
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
            explained.append(
                (name, _checked(name, _converted(name, os.environ[variable], variable), variable), variable)
            )
        elif name in file:
            explained.append((name, _checked(name, file[name], f"{path}: {name}"), str(path)))
        else:
            explained.append((name, entry.default, "default"))
    return explained


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise GptOssError(f"{path}: cannot be read ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{path}: {error}; mend it, or delete the file") from error
    unknown = sorted(set(values) - set(_TYPES))
    if unknown:
        raise InvalidRequest(f"{path}: {unknown[0]}: no such setting; there are {', '.join(_TYPES)}")
    return values


def _converted(name: str, text: str, where: str) -> Any:
    try:
        return _TYPES[name](text)
    except ValueError as error:
        raise InvalidRequest(f"{where} is {text!r}; {_KINDS[_TYPES[name]]} is needed") from error


def _checked(name: str, value: Any, where: str) -> Any:
    expected = _TYPES[name]
    if expected is float and type(value) is int:
        value = float(value)
    if type(value) is not expected:
        raise InvalidRequest(f"{where} is {value!r}; {_KINDS[expected]} is needed")
    choices = _CHOICES.get(name)
    if choices is not None and isinstance(value, str):
        value = value.lower()
    if choices is not None and value not in choices:
        which = f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
        raise InvalidRequest(f"{where} is {value!r}; {which} is needed")
    if name in _SAMPLING:
        _check_sampling(name, value, where)
    return value


def _check_sampling(name: str, value: Any, where: str) -> None:
    """The library knows the ranges; here it is said where the value stands."""

    try:
        SamplingParams(**{name: value})
    except InvalidRequest as error:
        raise InvalidRequest(str(error).replace(name, where, 1)) from error


def as_effort(text: str) -> Effort:
    """``text`` as an effort; a unique beginning will do.

    Raises:
        InvalidRequest: it is none.
    """
    return cast(Effort, _choice("effort", text, EFFORTS))


def as_think_mode(text: str) -> ThinkMode:
    """``text`` as a way to show thinking.

    Raises:
        InvalidRequest: it is none.
    """
    return cast(ThinkMode, _choice("think", text, THINK_MODES))


def _choice(name: str, text: str, choices: tuple[str, ...]) -> str:
    matches = [choice for choice in choices if choice.startswith(text.lower())]
    if not text or len(matches) != 1:
        raise InvalidRequest(f"{name} is {text!r}; one of {', '.join(choices)} is needed")
    return matches[0]
