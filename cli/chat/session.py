"""The state of one ``gptoss chat``: the model, which loads in the background, the conversation, and its file.

Knows nothing of slash commands or of the prompt; `live` and `plain_output` show the answers.
"""

from __future__ import annotations

import datetime
import math
import shlex
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ...arguments import Effort
from ...errors import GptOssError, InvalidRequest
from ..errors import INTERRUPTED, error_line
from ..screen.keyboard import Keyboard
from ..screen.spans import DIM, RED, YELLOW, Span, visible
from ..screen.terminal import Terminal
from ..settings import Settings, StatsLine, ThinkMode, as_effort, data_path
from .attachments import Attachment, mentioned, split_files, summary_of, with_files
from .endings import ending, remedy
from .loading import Loader, is_url
from .saved import new_chat_path, read_chat
from .stats import SessionStats, full_line, memory_in_use, short_line
from .tools import Tools

if TYPE_CHECKING:
    from ...api import GptOss
    from ...chat.chat import Chat
    from ...chat.file import ChatContent
    from ...chat.stream import Stream
    from ...events import Reply
    from ...remote import RemoteModel

__all__ = ["ChatSession"]


class ChatSession:
    """One chat at the terminal, from its start until the user leaves.

    Args:
        interactive: whether a person types; otherwise lines come from a pipe, and remarks go to standard error.
    """

    def __init__(
        self,
        terminal: Terminal,
        loader: Loader,
        settings: Settings,
        interactive: bool,
        tools: Tools | None = None,
    ) -> None:
        self.terminal = terminal
        self.errors = Terminal(sys.stderr)
        self.loader = loader
        self.settings = settings
        self.interactive = interactive
        self.tools = tools or Tools(settings)
        self.think: ThinkMode = settings.think
        self.unfolded = False
        """Whether the thinking before the last answer is on the screen."""
        self.stats_line: StatsLine = settings.stats_line
        self._effort = settings.effort
        self.system = settings.system
        self.stats = SessionStats()
        self.path: Path | None = None
        self.typed = ""
        """The text that the next prompt starts with."""
        self.keys = ""
        """Keys typed during an answer, as the terminal sent them; the next prompt handles them."""
        self.editing = False
        """Whether the next question replaces the last one."""
        self._put_aside: list[Attachment] = []
        """While the last question is edited: the files that were attached before."""
        self.attachments: list[Attachment] = []
        """Files to send with the next question."""
        self.written: set[Path] = set()
        """Copies and exports of the chat, with links resolved: these may be replaced."""
        self.leaving = False
        self.context = 0
        """Tokens of the conversation after the last answer."""
        self._chat: Chat | None = None
        self._title: str | None = None
        """The title made from the first question. A chat with another title keeps it: the user chose that one."""
        self.interrupted_at = -math.inf
        """When Ctrl-C was last pressed, on the monotonic clock."""

    # The conversation.

    @property
    def model(self) -> GptOss | RemoteModel:
        """The model; waits until it is loaded."""
        return self.loader.wait(self.terminal)

    @property
    def chat(self) -> Chat:
        """The conversation, begun on first use."""
        if self._chat is None:
            self._chat = self.model.chat(
                instructions=self.system,
                effort=self._effort,
                sampling=self.settings.sampling(stop_loops=True),
                date=datetime.date.today().isoformat(),
                **self.tools.options(self.terminal),
            )
        return self._chat

    @property
    def effort(self) -> Effort:
        """The effort of the next answer. The chat's own, where there is one: /retry changes it there."""
        return self._effort if self._chat is None else self._chat.effort

    @effort.setter
    def effort(self, effort: Effort) -> None:
        self._effort = effort
        if self._chat is not None:
            self._chat.effort = effort

    @property
    def writes_thoughts(self) -> bool:
        """Whether thinking is written out and stays on the screen."""
        return self.think in ("show", "dim")

    @property
    def thoughts(self) -> str:
        """How thinking is shown, in a word."""
        return {"show": "shown", "dim": "dimmed", "fold": "folded", "hide": "hidden"}[self.think]

    @property
    def has_chat(self) -> bool:
        """Whether a conversation has begun."""
        return self._chat is not None

    def use_chat(self, chat: Chat | None, path: Path | None) -> None:
        """Go on with another conversation.

        Args:
            chat: None: a new one, begun with the first question.
            path: the file it is saved in; None: a new file.
        """
        from .history import make_title

        self._effort = self.effort if chat is None else chat.effort
        self.tools.approval.forget_chat()
        if path is None or path != self.path:
            self.written.clear()
        self._chat, self.path = chat, path
        self.stop_editing()
        self.unfolded = False
        self._title = None
        if chat is not None:
            self._title = make_title(chat)
            self.system = chat.instructions
        self.context = chat.context_used if chat is not None else 0

    def open_chat(self, path: Path) -> None:
        """Go on with a saved conversation, and show its last turn."""
        from .history import show_last_turn

        content, saved_as, damage = read_chat(path)
        if damage:
            self.say(damage, YELLOW)
        if content.model and content.model != self.model.name:
            self.say(f"so far with {content.model}, from now on with {self.model.name}")
        chat = self._chat_from(content, self.model)
        self.use_chat(chat, saved_as)
        if self.interactive and chat.title:
            self.say(f"“{chat.title}”")
        show_last_turn(chat, self.terminal)

    def use_model(self, reference: str) -> None:
        """Go on with another model; the conversation stays.

        The old model is closed before the new one is loaded, since the machine may not hold both. If the new one
        cannot be loaded, the old one is loaded again and the error raised.
        """
        if not is_url(reference):
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
        """Wait for the model, and continue the conversation with it."""
        model = self.model
        if self._chat is not None:
            self.use_chat(self._chat_from(self._chat, model), self.path)

    def _chat_from(self, source: Chat | ChatContent, model: GptOss | RemoteModel) -> Chat:
        """A chat that continues another one, or one from a file."""
        chat = model.chat(
            instructions=source.instructions,
            effort=as_effort(source.effort),
            sampling=self.settings.sampling(stop_loops=True),
            date=source.date,
            messages=source.messages,
            **self.tools.options(self.terminal),
        )
        # A file may hold text that cannot be saved again.
        chat.title = visible(source.title) if source.title else None
        return chat

    def tools_changed(self) -> None:
        """The next answer has the tools that there are now."""
        self.tools.changed()
        if self._chat is not None:
            self._chat.tools = self.tools.options(self.terminal).get("tools", ())

    def set_sampling(self, **values: Any) -> None:
        """Change how tokens are chosen, from the next answer on."""
        self.settings = replace(self.settings, **values)
        if self._chat is not None:
            self._chat.sampling = self.settings.sampling(stop_loops=True)

    def owns(self, path: Path) -> bool:
        """Whether this chat wrote the file, and so may replace it."""
        own = {self.path.resolve()} if self.path is not None else set()
        return path.resolve() in self.written | own

    def save(self) -> None:
        """Save the conversation. A failure is reported and does not end the chat."""
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

    # Answers.

    def edit(self) -> str:
        """The next question replaces the last one, and has its files; returns the text of the last one."""
        from .history import last_question

        files, question = split_files(last_question(self.chat)[1])
        if not self.editing:
            self._put_aside = self.attachments
        self.editing, self.attachments = True, files
        return question

    def stop_editing(self) -> None:
        """The next question is a new one again."""
        if self.editing:
            self.editing, self.attachments = False, self._put_aside

    def ask(self, question: str, typed: str = "") -> None:
        """Send a question with the attached files, and show the answer.

        Args:
            typed: what a person typed of it: files that are named there as ``@path`` are sent too. The rest may be
                a stranger's.
        """
        from .history import last_question

        try:
            self._attach_mentioned(typed)
        except InvalidRequest:
            self.typed = question  # to be changed, and not to be typed again
            raise
        text = with_files(question, self.attachments)
        chat = self.chat
        stream = chat.stream_edit(last_question(chat)[0], text) if self.editing else chat.stream(text)
        self.attachments = []
        self.stop_editing()
        self.show(stream)

    def attach(self, files: Iterable[Attachment]) -> None:
        """Send files with the next question, each once, by whatever path it is named."""
        every = [*self.attachments, *files]
        self.attachments = list({file.path.resolve() if file.path else file: file for file in every}.values())

    def _attach_mentioned(self, typed: str) -> None:
        """Attach the files that are named as ``@path``."""
        files, missing = mentioned(typed)
        for word in missing:
            self.say(f"@{word}: no such file; sent as text")
        attached = {file.name for file in self.attachments}
        if files := [file for file in files if file.name not in attached]:
            self.attach(files)
            self.say(f"attached: {summary_of(files)}")

    def show(self, stream: Stream, fork: Chat | None = None) -> Reply:
        """Show an answer while it is generated, save the conversation, and show the figures.

        An answer that fails or is interrupted is saved as far as it was shown.

        Args:
            fork: the chat that answers, where that is not this session's: it is not saved.
        """
        if fork is None:
            self.stop_editing()
        self.tools.approval.begin()
        try:
            reply = self._show_interactive(stream) if self.interactive else self._show_plain(stream)
        finally:
            if fork is None:
                self.save()
        self.stats.replies.append(reply)
        if fork is None:
            self.context = self.chat.context_used
        self._remarks(reply, fork)
        return reply

    def _show_interactive(self, stream: Stream) -> Reply:
        from .live import TurnView, show_live

        view, keyboard = TurnView(self.think, apart=True, progress=lambda: self.tools.progress), Keyboard()
        try:
            reply = show_live(stream, self.terminal, keyboard, view, self.tools)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        finally:
            self.keys += keyboard.typed()
        self.think = view.think
        self.unfolded = self.writes_thoughts
        if reply.finish_reason == "cancelled":
            self.interrupted_at = time.monotonic()
            self.keys = self.keys.replace("\r", "\n")  # typed Enters send nothing after Ctrl-C: the text waits
        return reply

    def _show_plain(self, stream: Stream) -> Reply:
        from .plain_output import show_plain

        return show_plain(stream, self.terminal, self.errors, "hide" if self.think == "fold" else self.think)

    def _remarks(self, reply: Reply, fork: Chat | None) -> None:
        """Say why the answer ended, if it was cut short, what happened to servers, and show its figures."""
        for notice in self.tools.notices():
            self.say(notice, YELLOW)
        if not reply.text and reply.finish_reason == "stop" and not self.writes_thoughts:
            for line in reply.thinking.splitlines():
                self.say(line)
        if reason := ending(reply, self.settings.max_tokens):
            after = remedy(reply, self.settings.max_tokens) if fork is None else "/compare starts again"
            self.say(f"{reason}; {after}", YELLOW)
        if self.interactive and reply.usage.completion_tokens and self.stats_line == "short":
            self.say(short_line(reply))
        elif self.interactive and reply.usage.completion_tokens and self.stats_line == "full":
            chat, width = fork or self.chat, self.terminal.width - 1
            self.say(full_line(reply, chat.context_used, chat.context_limit, memory_in_use(), width))
        if self.interactive:
            self.terminal.line()

    # Remarks.

    def resuming(self) -> str:
        """How to go on with the conversation another time; empty: nothing of it is saved."""
        if self.path is None or self._chat is None or not self._chat.messages:
            return ""
        own = self.path.parent == data_path("chats")
        return f"to go on with this chat: gptoss chat -r {self.path.stem if own else shlex.quote(str(self.path))}"

    def status(self) -> str:
        """The line below the prompt."""
        spare = [f"thoughts: {self.thoughts}", f"effort {self.effort}", self.loader.reference]
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

    def unfold(self) -> None:
        """Write out the thinking before the last answer."""
        from .history import show_thoughts

        self.unfolded = True
        if self._chat is None or not show_thoughts(self._chat, self.terminal):
            self.say("there are no thoughts to show yet")

    def confirm(self, question: str) -> bool:
        """Whether the user says yes; in a script nobody does."""
        if not self.interactive:
            return False
        from prompt_toolkit import prompt

        try:
            return prompt(f"{visible(question)} [y/N] ").strip().lower() in ("y", "yes")
        except (EOFError, KeyboardInterrupt):
            return False

    def say(self, text: str, style: str = DIM) -> None:
        """Show a remark; of a script, on standard error."""
        target = self.terminal if self.interactive else self.errors
        target.paragraph(Span(text, style))

    def complain(self, text: str) -> None:
        """Report an error that does not end the chat."""
        self.terminal.paragraph(Span("error: ", RED), Span(text))
