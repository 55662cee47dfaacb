"""The tree of all errors that the library raises.

    GptOssError                   one line: what is wrong, where, and the remedy
    ├── ModelNotFound             the model is not on this machine; names the command that gets it
    ├── CheckpointError           a checkpoint that cannot be read or trusted
    │   ├── ConfigError           config.json: names the field
    │   └── TokenizerError        tokenizer.json
    ├── FileWriteError            a file could not be saved; its previous content is unchanged
    ├── ConversionError           a conversion that cannot take place; the source is unchanged
    ├── DownloadError             a download from the Hub failed
    ├── NotEnoughMemory           it does not fit; gives the figures
    ├── NotEnoughDisk
    ├── InvalidRequest            an argument out of range: names it, its value and the range
    │   ├── SchemaError           a schema, regex or list of choices that cannot be compiled: names the place
    │   └── ContextFull           a prompt that leaves no room for an answer
    ├── HarmonyError              text or structure that the harmony format does not allow
    │   ├── RenderError           a conversation that cannot be rendered: names the message and the field
    │   └── ParseError            a malformed stream in strict parsing
    ├── OutputError               an answer that does not have the required form; has its text
    ├── ToolError                 a tool that cannot be declared or called
    ├── ChatFileError             a saved chat that cannot be read
    ├── CacheFileError            a saved prompt cache that cannot be read, or belongs to another model
    ├── MachineLost               a machine that computes the model with others is gone; names it
    ├── ModelClosed               the model was closed
    └── ProcessForked             a model was used in a forked child of the process that loaded it

The library never prints them: the command line does that in one place, which also maps them to exit codes.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "CacheFileError",
    "ChatFileError",
    "CheckpointError",
    "ConfigError",
    "ContextFull",
    "ConversionError",
    "DownloadError",
    "FileWriteError",
    "GptOssError",
    "HarmonyError",
    "InvalidRequest",
    "MachineLost",
    "ModelClosed",
    "ModelNotFound",
    "NotEnoughDisk",
    "NotEnoughMemory",
    "OutputError",
    "ParseError",
    "ProcessForked",
    "RenderError",
    "SchemaError",
    "TokenizerError",
    "ToolError",
]


class GptOssError(Exception):
    """The base class of all errors that the library raises.

    Example:
        >>> try:
        ...     model.chat(effort="off")
        ... except GptOssError as error:
        ...     print(error)
        effort is 'off'; low, medium or high is needed (gpt-oss always thinks: low is the least)
    """


class ModelNotFound(GptOssError):
    """A model is not on this machine. Names the command that gets it.

    Example:
        >>> try:
        ...     gptoss.load("nowhere")
        ... except ModelNotFound as error:
        ...     print(type(error).__name__)
        ModelNotFound
    """


class CheckpointError(GptOssError):
    """A checkpoint is damaged, incomplete or not a gpt-oss. Names the file and the tensor.

    Example:
        >>> try:
        ...     gptoss.load(directory)
        ... except CheckpointError as error:
        ...     print(type(error).__name__)
        CheckpointError
    """


class ConfigError(CheckpointError):
    """A value in config.json is missing, unknown or inconsistent. Names the field.

    Example:
        >>> try:
        ...     gptoss.ModelConfig.from_dict({})
        ... except ConfigError as error:
        ...     print(type(error).__name__)
        ConfigError
    """


class TokenizerError(CheckpointError):
    """A tokenizer.json cannot be used.

    Example:
        >>> try:
        ...     gptoss.Tokenizer.from_ranks({}, {})
        ... except TokenizerError as error:
        ...     print(type(error).__name__)
        TokenizerError
    """


class FileWriteError(GptOssError):
    """A file could not be written. Its previous content is unchanged.

    Example:
        >>> try:
        ...     model.chat().save(directory / "no" / "chat.json")
        ... except FileWriteError as error:
        ...     print(type(error).__name__)
        FileWriteError
    """


class ConversionError(GptOssError):
    """A conversion cannot take place. The source is never changed.

    Example:
        >>> issubclass(ConversionError, GptOssError)
        True
    """


class DownloadError(GptOssError):
    """The Hub could not be reached, or refused.

    Example:
        >>> issubclass(DownloadError, GptOssError)
        True
    """


class NotEnoughMemory(GptOssError):
    """The device's memory is too small. Gives the figures and the remedy.

    Example:
        >>> issubclass(NotEnoughMemory, GptOssError)
        True
    """


class NotEnoughDisk(GptOssError):
    """The disk has too little free space. Gives the figures.

    Example:
        >>> issubclass(NotEnoughDisk, GptOssError)
        True
    """


class InvalidRequest(GptOssError, ValueError):
    """An argument is out of range. Names the argument, its value and the allowed range.

    Example:
        >>> try:
        ...     gptoss.SamplingParams(top_p=2)
        ... except InvalidRequest as error:
        ...     print(type(error).__name__)
        InvalidRequest
    """


class SchemaError(InvalidRequest):
    """A schema, regular expression or list of choices cannot be compiled. Names the place.

    Example:
        >>> try:
        ...     model.ask("Hi", regex="(")
        ... except SchemaError as error:
        ...     print(type(error).__name__)
        SchemaError
    """


class ContextFull(InvalidRequest):
    """A prompt leaves no room for an answer in the context. Names both lengths.

    Example:
        >>> try:
        ...     model.generate([0] * (model.context_limit + 1))
        ... except ContextFull as error:
        ...     print(type(error).__name__)
        ContextFull
    """


class HarmonyError(GptOssError):
    """Text or structure that the harmony format does not allow.

    Example:
        >>> try:
        ...     model.chat().send("\\ud800")
        ... except HarmonyError as error:
        ...     print(type(error).__name__)
        RenderError
    """


class RenderError(HarmonyError, ValueError):
    """A message or conversation cannot be rendered. Names its position, the field and the allowed values.

    Example:
        >>> try:
        ...     gptoss.Message.tool("", "4 degrees")
        ... except RenderError as error:
        ...     print(type(error).__name__)
        RenderError
    """


class ParseError(HarmonyError):
    """Strict parsing met a malformed token stream. Names the token's position.

    Example:
        >>> issubclass(ParseError, HarmonyError)
        True
    """


class OutputError(GptOssError):
    """An answer does not have the required form, usually because it was cut short.

    Example:
        >>> brief = gptoss.SamplingParams(max_tokens=9)
        >>> try:
        ...     model.ask("A word", regex="a{99}", sampling=brief, max_thinking_tokens=0)
        ... except OutputError as error:
        ...     set(error.text) <= {"a"}
        True
    """

    def __init__(self, message: str, text: str = "") -> None:
        super().__init__(message)
        self.text = text
        """The answer so far."""
        self.reply: Any = None
        """The whole :class:`~gptoss_mlx.Reply` as far as it came, where a turn ended so."""


class ToolError(GptOssError):
    """A tool cannot be declared, or a call to it failed.

    Example:
        >>> try:
        ...     gptoss.Tool(name="a b")
        ... except ToolError as error:
        ...     print(type(error).__name__)
        ToolError
    """


class ChatFileError(GptOssError):
    """A saved chat is damaged or of a newer version.

    Example:
        >>> try:
        ...     model.load_chat(directory / "none.json")
        ... except ChatFileError as error:
        ...     print(type(error).__name__)
        ChatFileError
    """


class CacheFileError(GptOssError):
    """A saved prompt cache is damaged, of a newer version, or of another model.

    Example:
        >>> try:
        ...     model.load_cache(directory / "none.cache")
        ... except CacheFileError as error:
        ...     print(type(error).__name__)
        CacheFileError
    """


class MachineLost(GptOssError):
    """A machine that computes the model together with others has ended, or does not answer. Names the machine.

    Example:
        >>> issubclass(MachineLost, GptOssError)
        True
    """


class ModelClosed(GptOssError):
    """A request was made to a model after ``close()``.

    Example:
        >>> again = gptoss.load("demo")
        >>> again.close()
        >>> try:
        ...     again.ask("Hi")
        ... except ModelClosed as error:
        ...     print(error)
        the model was closed; load it again
    """


class ProcessForked(GptOssError):
    """A model was used in a forked child of the process that loaded it: MLX cannot be used there.

    Example:
        >>> issubclass(ProcessForked, GptOssError)
        True
    """
