"""``gptoss chat``: questions in, answers out, until the user leaves.

Holds the session: the model that loads in the background, the conversation, where it is saved. Commands are
in `commands`, reading in `prompt`, drawing in `turn`.
"""

from __future__ import annotations

import datetime
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ...arguments import Effort
from ...errors import GptOssError
from ..errors import INTERRUPTED, error_line, is_exit, origin
from ..screen.keyboard import Keyboard, keys_as_sent
from ..screen.spans import DIM, RED, YELLOW, Span, visible
from ..screen.terminal import Terminal
from ..settings import Settings, ThinkMode, as_effort, data_path
from .first_start import choose_model
from .loading import Loader
from .saved import find_chat, new_chat_path, read_chat
from .stats import SessionStats, memory_in_use, reply_line

if TYPE_CHECKING:
    from ...api import GptOss
    from ...chat.chat import Chat
    from ...chat.file import ChatContent
    from ...chat.stream import Stream
    from ...events import Reply
    from .input import Reader

__all__ = ["ChatSession", "start_chat"]

_TWICE_SECONDS = 2.0
"""Seconds within which a second Ctrl-C leaves."""


def start_chat(settings: Settings, resume: str | None) -> None:
    """Chat until the user leaves. ``resume``: the name of a saved chat, empty for the last one."""
    terminal = Terminal(sys.stdout)
    path = find_chat(resume) if resume is not None else None
    interactive = terminal.interactive and sys.stdin.isatty()
    model = choose_model(settings.model, terminal, interactive)
    loader = Loader(model, settings.loading)
    session = ChatSession(terminal, loader, settings, interactive)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        with keys_as_sent() if interactive else nullcontext():
            if path is not None:
                session.open_chat(path)
            raise typer.Exit(session.talk())
    finally:
        session.loader.close()


def _terminated(_signal: int, _frame: object) -> None:
    """End as by an exception, so that the terminal is put in order."""
    sys.exit(128 + signal.SIGTERM)


class ChatSession:
    """One sitting at the terminal."""

    def __init__(self, terminal: Terminal, loader: Loader, settings: Settings, interactive: bool) -> None:
        self.terminal = terminal
        self.errors = Terminal(sys.stderr)
        self.loader = loader
        self.settings = settings
        self.interactive = interactive
        self.think: ThinkMode = settings.think
        self._effort = settings.effort
        self.system = settings.system
        self.stats = SessionStats()
        self.path: Path | None = None
        self.typed = ""
        """What the next prompt starts with."""
        self.keys = ""
        """What was typed ahead: the next prompt takes it as if it were typed there."""
        self.editing = False
        """The next question replaces the last one."""
        self.attachments: list[Path] = []
        self.written: set[Path] = set()
        """Files that the chat was saved or exported to besides its own, with links resolved."""
        self.leaving = False
        self.context = 0
        """Tokens of the conversation after the last answer."""
        self._chat: Chat | None = None
        self._title: str | None = None
        """The title the chat has from its first question; another one is the user's, and stays."""
        self._interrupted_at = -_TWICE_SECONDS

    # The conversation.

    @property
    def model(self) -> GptOss:
        """The model, waited for if need be."""
        return self.loader.wait(self.terminal)

    @property
    def chat(self) -> Chat:
        """The conversation; begun when first needed."""
        if self._chat is None:
            self._chat = self.model.chat(
                instructions=self.system,
                effort=self._effort,
                sampling=self.settings.sampling(stop_loops=True),
                date=datetime.date.today().isoformat(),
            )
        return self._chat

    @property
    def effort(self) -> Effort:
        """How long the next answer is thought about; a /retry may have changed it in the chat."""
        return self._effort if self._chat is None else self._chat.effort

    @effort.setter
    def effort(self, effort: Effort) -> None:
        self._effort = effort
        if self._chat is not None:
            self._chat.effort = effort

    @property
    def has_chat(self) -> bool:
        """Whether there is a conversation to speak of."""
        return self._chat is not None

    def use_chat(self, chat: Chat | None, path: Path | None) -> None:
        """Go on with another conversation; None: with a new one."""
        from .history import make_title

        self._effort = self.effort if chat is None else chat.effort
        if path is None or path != self.path:
            self.written.clear()
        self._chat, self.path, self.editing = chat, path, False
        self._title = None
        if chat is not None:
            self._title = make_title(chat)
            self.system = chat.instructions
        self.context = chat.context_used if chat is not None else 0

    def open_chat(self, path: Path) -> None:
        """Go on with a saved conversation, and show where it stood."""
        from .history import show_last_turn

        content, saved_as, damage = read_chat(path)
        if damage:
            self.say(damage, YELLOW)
        chat = self._chat_from(content, self.model)
        self.use_chat(chat, saved_as)
        show_last_turn(chat, self.terminal)

    def use_model(self, reference: str) -> None:
        """Go on with another model; the conversation stays.

        The old one is given up before the new one is loaded: the machine may not hold both.
        """
        from ...hub.models import resolve

        resolve(reference)
        before = self.loader.reference
        self._load_instead(reference)
        try:
            self._take_chat_over()
        except BaseException:
            self._load_instead(before)
            self._take_chat_over()
            raise

    def _load_instead(self, reference: str) -> None:
        self.loader.close()
        self.loader = Loader(reference, self.settings.loading)

    def _take_chat_over(self) -> None:
        """Wait for the model and go on with it."""
        model = self.model
        if self._chat is not None:
            self.use_chat(self._chat_from(self._chat, model), self.path)

    def _chat_from(self, source: Chat | ChatContent, model: GptOss) -> Chat:
        """A chat that goes on from what was said in another one, or in a file."""
        from ...chat.chat import Chat

        return Chat(
            model,
            instructions=source.instructions,
            effort=as_effort(source.effort),
            sampling=self.settings.sampling(stop_loops=True),
            date=source.date,
            messages=source.messages,
            title=visible(source.title) if source.title else None,  # a file may hold what cannot be saved again
        )

    def owns(self, path: Path) -> bool:
        """Whether this chat wrote the file: it may be written again."""
        own = {self.path.resolve()} if self.path is not None else set()
        return path.resolve() in self.written | own

    def save(self) -> None:
        """Save the conversation where it belongs. A failure is said and does not end the chat."""
        from .history import make_title

        if self._chat is None or not (self._chat.messages or self.path):
            return
        if not self._chat.title or self._chat.title == self._title:
            self._chat.title = self._title = make_title(self._chat)
        try:
            self.path = self.path or new_chat_path()
            self._chat.save(self.path)
        except (GptOssError, OSError) as error:
            self.complain(f"not saved: {error_line(error)}")

    # The loop.

    def talk(self) -> int:
        """Question after question; the exit code."""
        from .commands import Commands

        commands = Commands(self)
        reader = self._reader(commands)
        if self.interactive:
            self.say(f"{self.loader.reference} · /help for commands · Ctrl-D leaves")
            self.terminal.line()
        while not self.leaving:
            try:
                typed, self.typed, keys, self.keys = self.typed, "", self.keys, ""
                question = reader.read(typed, keys)
            except EOFError:
                break
            except KeyboardInterrupt:
                if self.editing:
                    self.editing = False
                    self.say("no longer editing; the last question stays as it was")
                    continue
                if self._interrupted_twice():
                    return INTERRUPTED
                self.say("Ctrl-C again, or Ctrl-D, leaves")
                continue
            try:
                self._handle(question, commands.handle)
            except KeyboardInterrupt:
                if self._interrupted_twice():
                    return INTERRUPTED
                self.typed = self.typed or question
        return 0

    def _handle(self, question: str, command: Callable[[str], None]) -> None:
        """One line of the user's: a command or a question. Errors are shown, be they ours; those of loading, and
        of a script's line, end the chat."""
        try:
            if question.startswith("/") and not question.startswith("//"):
                command(question)
            elif question.strip():
                self.ask(question.removeprefix("/") if question.startswith("//") else question)
        except Exception as error:
            if is_exit(error) or not self.loader.ready or not self.interactive:
                raise
            self.complain(error_line(error))
            self.terminal.write(origin(error))

    def ask(self, question: str) -> None:
        """Send a question, with the files that wait to go with it, and show the answer."""
        from .attachments import with_files
        from .history import last_question

        text = with_files(question, self.attachments)
        chat = self.chat
        stream = chat.stream_edit(last_question(chat)[0], text) if self.editing else chat.stream(text)
        self.attachments.clear()
        self.show(stream)

    def show(self, stream: Stream, save: bool = True) -> Reply:
        """Show an answer as it comes, save the conversation, say what it took.

        What an answer that fails or is left has shown until then is saved too.
        """
        self.editing = self.editing and not save
        try:
            reply = self._show_interactive(stream) if self.interactive else self._show_plain(stream)
        finally:
            if save:
                self.save()
        self.stats.replies.append(reply)
        if save:
            self.context = self.chat.context_used
        self._remarks(reply)
        return reply

    def _show_interactive(self, stream: Stream) -> Reply:
        from .live import TurnView, show_live

        view, keyboard = TurnView(self.think, apart=True), Keyboard()
        try:
            reply = show_live(stream, self.terminal, keyboard, view)
        except KeyboardInterrupt:
            self._interrupted_at = -_TWICE_SECONDS
            self.leaving = True
            raise typer.Exit(INTERRUPTED) from None
        finally:
            self.keys += keyboard.typed()
        self.think = view.think
        if reply.finish_reason == "cancelled":
            self._interrupted_at = time.monotonic()
            self.keys = self.keys.replace("\r", "\n")  # nothing is sent any more, but waits in the prompt
        return reply

    def _show_plain(self, stream: Stream) -> Reply:
        from .plain_output import show_plain

        return show_plain(stream, self.terminal, self.errors, "hide" if self.think == "collapse" else self.think)

    def _remarks(self, reply: Reply) -> None:
        if reply.finish_reason == "cancelled":
            ways = "/continue goes on, /retry begins again" if reply.messages else "/retry asks again"
            self.say(f"interrupted; {ways}", YELLOW)
        elif reply.finish_reason == "length":
            if self.settings.max_tokens is None:
                self.say("the context is full (finish_reason: length); /undo makes room, /new begins anew", YELLOW)
            else:
                self.say("cut off (finish_reason: length); /continue goes on", YELLOW)
        elif reply.finish_reason == "loop":
            self.say(
                "stopped: its thinking went round in circles (finish_reason: loop); /retry begins again", YELLOW
            )
        if self.interactive and reply.usage.completion_tokens:
            width = self.terminal.width - 1
            self.say(reply_line(reply, self.context, self.chat.context_limit, memory_in_use(), width))
        if self.interactive:
            self.terminal.line()

    def _reader(self, commands: object) -> Reader:
        from .input import ChatPrompt, LineReader

        if not self.interactive:
            return LineReader(lambda: self.errors.write("› ") if sys.stdin.isatty() else None)
        from .commands import Commands

        assert isinstance(commands, Commands)
        prompt = ChatPrompt(
            commands,
            data_path("history"),
            toolbar=self.status,
            toggle_thinking=self.toggle_thinking,
            editing=lambda: self.editing,
            when_ready=lambda: self.loader.start(when_failed=prompt.fail),
        )
        return prompt

    def _interrupted_twice(self) -> bool:
        now = time.monotonic()
        twice, self._interrupted_at = now - self._interrupted_at < _TWICE_SECONDS, now
        return twice

    # What the user is told.

    def status(self) -> str:
        """The line below the prompt."""
        spare = [f"thinking {self.think}", f"effort {self.effort}", self.loader.reference]
        parts = spare[::-1]
        if self.editing:
            parts.append("editing the last question")
        if self.attachments:
            count = len(self.attachments)
            parts.append(f"{count} file{'s' if count > 1 else ''} attached")
        if self._chat is not None:
            parts.append(f"{self.context:,} of {self._chat.context_limit:,} tokens")
        while spare and len(parts) > 1 and len(" · ".join(parts)) > self.terminal.width:
            parts.remove(spare.pop(0))
        return " · ".join(parts)

    def toggle_thinking(self) -> None:
        """Ctrl-T: write thinking out, or only show it while it lasts."""
        self.think = "collapse" if self.think in ("show", "dim") else "dim"

    def say(self, text: str, style: str = DIM) -> None:
        """A remark of the program's own; in a script's output there are none."""
        target = self.terminal if self.interactive else self.errors
        target.paragraph(Span(text, style))

    def complain(self, text: str) -> None:
        """Something went wrong, and the chat goes on."""
        self.terminal.paragraph(Span("error: ", RED), Span(text))
