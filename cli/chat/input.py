"""Reading a question: an editor line in a terminal, plain lines anywhere else."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input.ansi_escape_sequences import ANSI_SEQUENCES
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding import KeyBindings, KeyPress, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout.processors import Processor, TabsProcessor, Transformation, TransformationInput
from prompt_toolkit.output.color_depth import ColorDepth
from prompt_toolkit.styles import Style

from ...errors import FileWriteError, InvalidRequest
from ...files.write import private_file
from ..screen.spans import visible
from .pastes import Pastes

__all__ = ["ChatPrompt", "CommandCompleter", "CommandWords", "Line", "LineReader", "Reader", "Word", "in_block"]

_STYLE = Style.from_dict(
    {
        "prompt": "ansicyan bold",
        "continuation": "ansibrightblack",
        "bottom-toolbar": "noreverse ansibrightblack",
        "completion-menu": "bg:default",
        "completion-menu.completion": "bg:default fg:ansicyan",
        "completion-menu.completion.current": "noreverse bg:ansicyan fg:ansiblack",
        "completion-menu.meta.completion": "bg:default fg:ansibrightblack",
        "completion-menu.meta.completion.current": "bg:default fg:default",
        "scrollbar.background": "bg:default",
        "scrollbar.button": "bg:ansibrightblack",
    }
)


class Word(NamedTuple):
    """A word that the completer offers."""

    text: str
    remark: str = ""
    title: str = ""
    """Shown in place of the word, and matched as well."""


class CommandWords(Protocol):
    """The words that the completer offers."""

    def names(self) -> Iterable[Word]:
        """The commands' names with their summaries."""
        ...

    def values(self, name: str) -> Iterable[Word]:
        """Words that may follow a command."""
        ...

    def takes_path(self, name: str) -> bool:
        """Whether paths may follow a command."""
        ...


class Line(NamedTuple):
    """A question or a command."""

    text: str
    typed: str = ""
    """What a person typed of it, without long pastes; empty in a script."""


class Reader(Protocol):
    """A source of questions."""

    def read(self, typed: str = "", keys: str = "") -> Line:
        """The next question or command.

        Args:
            typed: the text that the line starts with.
            keys: keys that were pressed before, as the terminal sent them.

        Raises:
            EOFError: there is no further one.
            KeyboardInterrupt: Ctrl-C on an empty line, or while the last question was edited.
        """
        ...


_QUOTES = '"""'


def in_block(text: str) -> bool:
    """Whether a text that begins with three quotes has no other three: then it goes on in the next line."""
    text = text.lstrip()
    return text.startswith(_QUOTES) and _QUOTES not in text[3:]


def without_quotes(text: str) -> str:
    """The text between three quotes and three quotes, or else ``text`` itself."""
    stripped = text.strip()
    if len(stripped) >= 6 and stripped.startswith(_QUOTES) and stripped.endswith(_QUOTES):
        return stripped[3:-3].strip("\n")
    return text


class LineReader:
    """Plain lines of standard input, without editing; ``prompt`` is called before each question."""

    def __init__(self, prompt: Callable[[], None]) -> None:
        self._prompt = prompt

    def read(self, typed: str = "", keys: str = "") -> Line:
        self._prompt()
        text = self._line()
        while in_block(text):
            text += "\n" + self._line()
        return Line(without_quotes(text))

    def _line(self) -> str:
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError as error:
            raise InvalidRequest("standard input: is not UTF-8 text; convert it first") from error
        if not line:
            raise EOFError
        return line.rstrip("\n")


class ChatPrompt:
    """The prompt: history, completion, several lines, an external editor.

    Args:
        words: for completion.
        history: the file of earlier questions; None: they are not kept.
        toolbar: makes the line below the prompt.
        unfold: called on Ctrl-T; may write above the prompt.
        editing: whether the last question is being edited.
        when_ready: called once the prompt is on the screen.
    """

    def __init__(
        self,
        words: CommandWords,
        history: Path | None,
        toolbar: Callable[[], str],
        unfold: Callable[[], None],
        editing: Callable[[], bool],
        when_ready: Callable[[], None],
    ) -> None:
        self._pastes = Pastes()
        self.session: PromptSession[str] = PromptSession(
            multiline=True,
            key_bindings=_bindings(unfold, editing, self._pastes),
            history=_history(history, self._pastes),
            completer=CommandCompleter(words),
            complete_while_typing=Condition(lambda: self._completing()),
            enable_suspend=True,
            tempfile_suffix=".md",
            input_processors=[TabsProcessor(tabstop=4, char1=" ", char2=" "), _Visible()],
            bottom_toolbar=lambda: FormattedText([("class:bottom-toolbar", visible(self._hint() or toolbar()))]),
            prompt_continuation=lambda width, line, wrapped: [("class:continuation", "· ".rjust(width))],
            style=_STYLE,
            color_depth=ColorDepth.MONOCHROME if os.environ.get("NO_COLOR") else None,
        )
        # Only after the prompt is on the screen, since loading competes with it for the processor.
        self.session.app.after_render += lambda _app: when_ready()

    def read(self, typed: str = "", keys: str = "") -> Line:
        store_typeahead(self.session.app.input, _key_presses(keys))
        text = self.session.prompt([("class:prompt", "› ")], default=typed)
        return Line(without_quotes(self._pastes.unfold(text)), self._pastes.drop(text))

    def fail(self, error: BaseException) -> None:
        """From another thread: end the prompt that is open, if any, with ``error``."""
        app = self.session.app
        if app.is_running and app.loop is not None:
            app.loop.call_soon_threadsafe(lambda: app.exit(exception=error) if app.is_running else None)

    def _hint(self) -> str:
        """How to go on where Enter does not send the text."""
        return f"Enter starts a new line until {_QUOTES} ends the block" if in_block(self._text()) else ""

    def _text(self) -> str:
        return self.session.default_buffer.text

    def _completing(self) -> bool:
        text = self.session.default_buffer.document.text_before_cursor
        return _begins_command(text) or _MENTION.search(text) is not None


class _FullHistory(FileHistory):
    """Earlier questions, in the file with pasted texts in full."""

    def __init__(self, path: Path, pastes: Pastes) -> None:
        super().__init__(str(path))
        self._pastes = pastes

    def store_string(self, string: str) -> None:
        super().store_string(self._pastes.unfold(string))


def _history(path: Path | None, pastes: Pastes) -> History:
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _FullHistory(private_file(path), pastes)
    except (OSError, FileWriteError):
        return InMemoryHistory()


# Terminals that can tell Shift-Enter from Enter send one of these; it means the same as Alt-Enter.
for _sequence in ("\x1b[13;2u", "\x1b[27;2;13~"):
    ANSI_SEQUENCES[_sequence] = (Keys.Escape, Keys.ControlM)


_PASTE, _PASTED = "\x1b[200~", "\x1b[201~"


def _key_presses(keys: str) -> list[KeyPress]:
    """The keys of what a terminal sent."""
    presses: list[KeyPress] = []
    if keys.rfind(_PASTE) > keys.rfind(_PASTED):
        keys += _PASTED
    Vt100Parser(presses.append).feed_and_flush(keys)
    return presses


def _bindings(unfold: Callable[[], None], editing: Callable[[], bool], pastes: Pastes) -> KeyBindings:
    bindings = KeyBindings()
    # In a search of the history these keys keep their usual meaning.
    asking = has_focus(DEFAULT_BUFFER)

    @bindings.add("enter", filter=asking)
    def _send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if in_block(buffer.text):
            buffer.insert_text("\n")
        elif buffer.text.strip():
            buffer.validate_and_handle()

    @bindings.add("c-j", filter=asking)
    @bindings.add("escape", "enter", filter=asking)
    def _newline(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add(Keys.BracketedPaste, filter=asking)
    def _paste(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text(pastes.fold(event.data.replace("\r\n", "\n").replace("\r", "\n")))

    @bindings.add("backspace", filter=asking)
    def _erase(event: KeyPressEvent) -> None:
        sign = pastes.sign_at_end(event.current_buffer.document.text_before_cursor)
        event.current_buffer.delete_before_cursor(len(sign) or event.arg)

    @bindings.add("c-x", "c-e", filter=asking)
    def _edit(event: KeyPressEvent) -> None:
        event.current_buffer.text = pastes.unfold(event.current_buffer.text)
        # Not sent at once: the user may have left the editor without saving.
        event.current_buffer.open_in_editor()

    @bindings.add("c-c", filter=asking)
    def _clear(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
            if not editing():
                return
        event.app.exit(exception=KeyboardInterrupt())

    @bindings.add("c-t")
    def _unfold(event: KeyPressEvent) -> None:
        run_in_terminal(unfold)

    return bindings


class _Visible(Processor):
    """Shows characters that a terminal would obey, or that would hide or reorder text, as one symbol each."""

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        fragments = transformation_input.fragments
        return Transformation([(style, _symbols(text), *rest) for style, text, *rest in fragments])  # type: ignore[misc]


def _symbols(text: str) -> str:
    """``text`` made visible without a change of its length, so that the cursor stands at the right character."""
    if visible(text) == text:
        return text
    return "".join(symbol if len(symbol := visible(character)) == 1 else "\ufffd" for character in text)


_LAST_WORD = re.compile(r"(?:\\.|[^\s\\])*\Z")
"""The last word of a line; a space after a backslash belongs to it."""
_MENTION = re.compile(r"(?<!\S)@((?:\\.|[^\s\\])*)\Z")
"""A word that begins with @, at the end of a text."""


def _begins_command(text: str) -> bool:
    return text.startswith("/") and not text.startswith("//") and "\n" not in text


class CommandCompleter(Completer):
    """Commands, then their values or paths; in a question, paths after @."""

    def __init__(self, words: CommandWords) -> None:
        self._words = words
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        text = document.text_before_cursor
        if not _begins_command(text):
            if mention := _MENTION.search(text):
                yield from self._path_completions(mention[1], complete_event)
            return
        name, space, rest = text[1:].partition(" ")
        name = name.lower()
        if not space:
            for command in self._words.names():
                if command.text.startswith(name):
                    yield Completion(f"/{command.text}", -len(text), display_meta=command.remark)
            return
        match = _LAST_WORD.search(rest)
        word = match.group() if match else ""
        for value in self._words.values(name):
            if value.text.lower().startswith(word.lower()) or (word and word.lower() in value.title.lower()):
                display = visible(value.title or value.text)
                yield Completion(value.text, -len(word), display=display, display_meta=visible(value.remark))
        if self._words.takes_path(name):
            yield from self._path_completions(word, complete_event)

    def _path_completions(self, word: str, complete_event: CompleteEvent) -> Iterator[Completion]:
        typed = Document(re.sub(r"\\(.)", r"\1", word))
        hidden = os.path.basename(typed.text).startswith(".")
        for completion in self._paths.get_completions(typed, complete_event):
            if completion.display_text.startswith(".") and not hidden:
                continue
            display: Any = visible(completion.display_text)
            escaped = re.sub(r"([\s'\"\\])", r"\\\1", completion.text)
            yield Completion(escaped, completion.start_position, display=display)
