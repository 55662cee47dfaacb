"""The slash commands: one table, read by the dispatcher, by ``/help`` and by the completer."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ...errors import InvalidRequest
from ..screen.spans import BOLD, CYAN, DIM, Row, Span, row_width, wrap
from ..settings import EFFORTS, STATS_LINES, THINK_MODES
from . import actions, chats, mcp
from .input import Word
from .session import ChatSession
from .stats import FULL_LINE

__all__ = ["COMMANDS", "Command", "Commands", "help_rows"]

Action = Callable[[ChatSession, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command."""

    name: str
    usage: str = ""
    """The form of its argument; empty: it takes none."""
    summary: str
    details: str = ""
    """What /help and the command's name add to the summary."""
    act: Action
    act_over: Action | None = None
    """With a ``!`` after its name: the same, but replacing a file that is already there."""
    values: tuple[str, ...] = ()
    """Arguments that the completer offers."""
    path: bool = False
    """Whether the completer offers paths."""


class Commands:
    """The commands of one session."""

    def __init__(self, session: ChatSession) -> None:
        self._session = session

    def handle(self, line: str) -> None:
        """Execute ``line``, which begins with a slash.

        Raises:
            InvalidRequest: there is no such command, or not with this argument.
        """
        name, _, argument = line[1:].strip().partition(" ")
        name = name.lower()
        command, argument = _find(name.removesuffix("!")), argument.strip()
        act = command.act_over if name.endswith("!") else command.act
        if act is None:
            raise InvalidRequest(f"/{name}: no such command; use /{command.name} {command.usage}".rstrip())
        if argument and not command.usage:
            raise InvalidRequest(f"/{command.name} {argument}: /{command.name} takes no argument")
        act(self._session, argument)

    def names(self) -> Iterable[Word]:
        return [Word(command.name, command.summary) for command in COMMANDS.values()]

    def values(self, name: str) -> Iterable[Word]:
        if name == "help":
            return self.names()
        if name in ("load", "delete"):
            from .saved import saved_chats

            return [Word(chat.name, chat.age, chat.title) for chat in saved_chats()]
        if name == "model":
            from ...hub.models import list_models

            return [Word(model.name) for model in list_models()]
        return [Word(value) for value in COMMANDS[name].values] if name in COMMANDS else ()

    def takes_path(self, name: str) -> bool:
        command = COMMANDS.get(name.removesuffix("!"))
        return command is not None and command.path


_ALIASES = {"?": "help", "bye": "quit", "exit": "quit", "clear": "new", "resume": "chats"}
"""Names that these commands have in other programs."""


def _find(name: str) -> Command:
    name = _ALIASES.get(name, name.replace("_", "-"))
    if name in COMMANDS:
        return COMMANDS[name]
    beginning = [command for command in COMMANDS if command.startswith(name)] if name else []
    if len(beginning) == 1:
        return COMMANDS[beginning[0]]
    nearest = difflib.get_close_matches(name, COMMANDS, n=1) or beginning
    hint = f"did you mean /{nearest[0]}?" if nearest else "/help lists them"
    raise InvalidRequest(f"/{name}: no such command; {hint} (start with // to send a slash)")


# Help.

_KEYS = """Enter sends; Ctrl-J or Alt-Enter starts a new line, as Enter does inside \"\"\".
@path in a question attaches that file; quote paths with spaces.
Ctrl-R searches earlier questions; Ctrl-X Ctrl-E opens $EDITOR.
Ctrl-T unfolds the thoughts of the last answer; Ctrl-C stops an answer.
/help COMMAND explains one command."""

_NARROWEST_SUMMARY = 24


def _help(session: ChatSession, argument: str) -> None:
    terminal = session.terminal
    if argument:
        command = _find(argument.removeprefix("/"))
        terminal.rows(help_rows([command], terminal.width))
        if command.details:
            session.say(command.details)
        return
    for heading, commands in GROUPS.items():
        terminal.rows([(Span(heading, BOLD),), *help_rows(commands, terminal.width)])
    terminal.line("Keys", BOLD)
    session.say(_KEYS)
    if session.stats_line == "full":
        session.say(FULL_LINE)


def help_rows(commands: Sequence[Command], width: int) -> list[Row]:
    """Usage and summary of each command, side by side, or one below the other in a narrow window."""
    column = max(len(f"/{command.name} {command.usage}") for command in COMMANDS.values()) + 2
    beside = width - 1 - column >= _NARROWEST_SUMMARY
    rows: list[Row] = []
    for command in commands:
        usage = (Span(f"/{command.name}", CYAN), Span(f" {command.usage}", DIM))
        summary = wrap((Span(command.summary),), width - 1 - column if beside else max(width - 5, 10))
        if beside:
            margins = [*usage, Span(" " * (column - row_width(usage)))], [Span(" " * column)]
            rows += [(*margins[number > 0], *wrapped.row) for number, wrapped in enumerate(summary)]
        else:
            rows += [usage, *((Span("    "), *wrapped.row) for wrapped in summary)]
    return rows


_SAMPLING = (
    ("temperature", "T", "Set how freely to choose words; 0: not at all"),
    ("top_p", "P", "Choose among the likeliest with this probability"),
    ("top_k", "N", "Choose among so many of the likeliest; 0: all"),
    ("min_p", "P", "Leave out what is less likely than this share"),
    ("seed", "N", "Make answers repeatable"),
    ("max_tokens", "N", "End answers after so many tokens"),
)
"""Settings of sampling: name, form of the value, summary."""

_ANSWERS = (
    Command(
        name="effort",
        usage="low|medium|high",
        summary="Set how long to think",
        details=(
            "The effort stands at the very start of what the model reads, so a change makes it read the whole "
            "chat again. Without a value, shows the present one."
        ),
        act=actions.effort,
        values=EFFORTS,
    ),
    Command(
        name="think",
        usage="|".join(THINK_MODES),
        summary="Set how thinking is shown",
        details=(
            "show writes thinking out, dim does so in grey, fold shows it only while it lasts, hide never "
            "shows it. Thinking is not trained to the safety standard of answers."
        ),
        act=actions.think,
        values=THINK_MODES,
    ),
    Command(
        name="thinking",
        summary="Show the thoughts of the last answer; so does Ctrl-T",
        act=actions.thinking,
    ),
    Command(
        name="retry",
        usage="[EFFORT]",
        summary="Answer the last question again",
        details="An effort given here stays for the answers that follow.",
        act=actions.retry,
        values=EFFORTS,
    ),
    Command(
        name="edit",
        usage="[TEXT]",
        summary="Change the last question",
        details="Without a text, the last question is put into the prompt for you to change.",
        act=actions.edit,
    ),
    Command(
        name="undo",
        usage="[N]",
        summary="Take the last turn back, or N turns",
        details="A turn is a question and its answer.",
        act=actions.undo,
    ),
    Command(name="continue", summary="Continue an answer that was cut off", act=actions.continue_answer),
    Command(
        name="compare",
        usage="[QUESTION]",
        summary="Compare answers at low, medium and high effort",
        details="Without a question, asks the last one again. The chat itself does not change.",
        act=actions.compare,
    ),
    Command(
        name="copy",
        usage="[code [N]]",
        summary="Copy the last answer, or the code in it",
        details=(
            "/copy code takes the last block of code, /copy code 2 the second. Uses the system's own tool, or "
            "asks the terminal to copy (OSC 52)."
        ),
        act=actions.copy,
        values=("code",),
    ),
)

_INPUT = (
    Command(
        name="file",
        usage="[PATH…|clear]",
        summary="Attach files to the next question",
        details=(
            "Files are UTF-8 text, at most 4 MB each; a pattern such as src/**/*.py attaches all that match, up "
            "to 200. Without a path, lists the attached files; /file clear removes them. In a question @path "
            "attaches that file too."
        ),
        act=actions.file,
        values=("clear",),
        path=True,
    ),
    Command(
        name="system",
        usage="TEXT|clear",
        summary="Set instructions for the whole chat",
        details="A change makes the model read the whole chat again. Without a text, shows the present ones.",
        act=actions.system,
        values=("clear",),
    ),
)

_CHATS = (
    Command(name="new", summary="Begin a new chat", act=chats.new),
    Command(
        name="chats",
        usage="[WORDS]",
        summary="Pick a saved chat and go on with it",
        details=(
            "Type to narrow the list: titles and what was said are searched. Enter opens the chat, Ctrl-D pressed "
            "twice deletes it, Escape leaves the list."
        ),
        act=chats.chats,
    ),
    Command(
        name="load",
        usage="[NAME|PATH]",
        summary="Go on with the last chat, or the one of that name",
        details="A part of its title is enough for a name; so is the path of its file.",
        act=chats.load,
        path=True,
    ),
    Command(
        name="fork",
        usage="[TITLE]",
        summary="Go on in a copy",
        details="The chat so far stays saved. Without a title, the copy has that of the chat and a number.",
        act=chats.fork,
    ),
    Command(
        name="rename",
        usage="[TITLE]",
        summary="Give the chat another title",
        details="Without a title, the present one is put into the prompt for you to change.",
        act=chats.rename,
    ),
    Command(
        name="delete",
        usage="[NAME]",
        summary="Delete this chat, or the one of that name",
        details="Asks first; /delete! does not ask. A part of the title is enough for a name.",
        act=chats.delete,
        act_over=functools.partial(chats.delete, over=True),
    ),
    Command(name="history", summary="Show the chat so far", act=chats.history),
    Command(
        name="save",
        usage="[PATH]",
        summary="Save a copy; every turn is saved anyway",
        details="/save! PATH replaces a file that is already there.",
        act=chats.save,
        act_over=functools.partial(chats.save, over=True),
        path=True,
    ),
    Command(
        name="export",
        usage="PATH",
        summary="Write the chat as Markdown (.md) or JSON",
        details=(
            "Markdown has questions and answers, and the thinking folded; JSON has everything, as saved chats do. "
            "/export! PATH replaces a file that is already there."
        ),
        act=chats.export,
        act_over=functools.partial(chats.export, over=True),
        path=True,
    ),
)

_MODEL = (
    Command(
        name="model",
        usage="[NAME]",
        summary="Go on with another model",
        details="The conversation stays. Without a name, lists the models on this disk.",
        act=actions.model,
    ),
    *(
        Command(
            name=name.replace("_", "-"),
            usage=f"[{value}|clear]",
            summary=summary,
            details="Without a value, shows the present one; clear restores the default.",
            act=functools.partial(actions.sampling, name=name),
            values=("clear",),
        )
        for name, value, summary in _SAMPLING
    ),
    Command(
        name="stats",
        usage="[line FORM]",
        summary="Show figures, or set those after an answer",
        details=f"Without a form, shows those of this session. A form is off, short or full.\n{FULL_LINE}",
        act=actions.stats,
        values=("line", *STATS_LINES),
    ),
    Command(
        name="trace",
        summary="Show what the model sees, and what is cached",
        details=(
            "Analysis is dropped once its turn is over, as gpt-oss was trained. Cached tokens are not computed "
            "again."
        ),
        act=actions.trace,
    ),
    Command(
        name="stop",
        summary="Stop an answer: type it while the model answers",
        details="Ctrl-C does the same. What came until then stays.",
        act=lambda session, _argument: session.say("no answer is generated now"),
    ),
    Command(
        name="mcp",
        usage="[on|off|log NAME, reload]",
        summary="Show the servers of MCP and their tools",
        details=(
            "on and off start and end a server; reload reads their file again; log shows what a server wrote to "
            "standard error. --mcp FILE or the setting mcp names the file."
        ),
        act=mcp.mcp,
        values=("on", "off", "reload", "log"),
    ),
)

_PROGRAM = (
    Command(name="help", usage="[COMMAND]", summary="List the commands, or explain one", act=_help),
    Command(name="quit", summary="Leave; so does Ctrl-D", act=actions.stop),
)

GROUPS: dict[str, tuple[Command, ...]] = {
    "Answers": _ANSWERS,
    "Questions": _INPUT,
    "Chats": _CHATS,
    "Model": _MODEL,
    "Program": _PROGRAM,
}
"""The commands under the headings of ``/help``."""

COMMANDS: dict[str, Command] = {command.name: command for group in GROUPS.values() for command in group}
"""Every command by its name."""
