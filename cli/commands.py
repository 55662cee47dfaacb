"""What may follow a slash: one table of commands, read by the dispatcher, by /help and by the completer."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InvalidRequest
from ..files import as_path
from .settings import EFFORTS, THINK_MODES, as_effort, as_think_mode
from .spans import BOLD, CYAN, DIM, GREEN, Row, Span, clip, row_width, wrap

if TYPE_CHECKING:
    from .chat import ChatSession

__all__ = ["COMMANDS", "Command", "Commands"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command."""

    name: str
    usage: str = ""
    """What may follow it."""
    summary: str
    act: Callable[[ChatSession, str], None]
    values: tuple[str, ...] = ()
    path: bool = False


class Commands:
    """The commands of one session."""

    def __init__(self, session: ChatSession) -> None:
        self._session = session

    def handle(self, line: str) -> None:
        """Do what ``line`` says.

        Raises:
            InvalidRequest: there is no such command, or not with this argument.
        """
        name, _, argument = line[1:].strip().partition(" ")
        command = _find(name)
        command.act(self._session, argument.strip())

    def names(self) -> Iterable[tuple[str, str]]:
        return [(command.name, command.summary) for command in COMMANDS.values()]

    def values(self, name: str) -> Iterable[str]:
        if name == "help":
            return COMMANDS
        if name == "load":
            from .sessions import saved_chats

            return [chat.name for chat in saved_chats()]
        if name == "model":
            from ..hub import list_models

            return [model.name for model in list_models()]
        return COMMANDS[name].values if name in COMMANDS else ()

    def takes_path(self, name: str) -> bool:
        return name in COMMANDS and COMMANDS[name].path


# What people type who come from another program.
_ALIASES = {"?": "help", "bye": "quit", "exit": "quit", "clear": "new"}


def _find(name: str) -> Command:
    name = _ALIASES.get(name, name)
    if name in COMMANDS:
        return COMMANDS[name]
    beginning = [command for command in COMMANDS if command.startswith(name)] if name else []
    if len(beginning) == 1:
        return COMMANDS[beginning[0]]
    nearest = difflib.get_close_matches(name, COMMANDS, n=1) or beginning
    hint = f"did you mean /{nearest[0]}?" if nearest else "/help lists them"
    raise InvalidRequest(f"/{name}: no such command; {hint} (// sends a slash)")


_KEYS = """Enter sends; Ctrl-J, Alt-Enter or a block in three quotes makes lines.
Ctrl-R searches what you asked before; Ctrl-X Ctrl-E opens $EDITOR.
Ctrl-T shows or hides thinking; Ctrl-C stops an answer; Ctrl-D leaves.
/help and a command tells more of it."""

_MORE = {
    "effort": "It stands before all else that the model reads: after a change it reads the whole chat again.",
    "think": (
        "show writes it out, dim does so in grey, collapse shows it while it lasts, hide not at all. "
        "It is not trained to the safety standard of answers."
    ),
    "system": "After a change the model reads the whole chat again.",
    "retry": "An effort given here holds from now on.",
    "edit": "Without a text, the last question is put into the prompt to be changed.",
    "file": "UTF-8 text, at most 4 MB each; paths with spaces in quotes.",
    "copy": "With the system's own tool, or through the terminal (OSC 52).",
    "load": "Without a name, the last one. A part of its name is enough; so is the path of a chat's file.",
    "export": "Markdown has questions and answers; JSON has everything, as saved chats do.",
    "fork": "The chat so far stays saved under its own name.",
    "compare": "Without a question, the last one. The chat itself stays as it is.",
    "trace": "Analysis is dropped once its turn is over, as gpt-oss was trained. What is cached costs nothing.",
    "model": "The conversation stays. Without a name, the models on this disk.",
}
"""What /help and the command say beyond its summary."""


_NARROWEST_SUMMARY = 24


def _help(session: ChatSession, argument: str) -> None:
    chosen = [_find(argument.removeprefix("/"))] if argument else list(COMMANDS.values())
    session.terminal.rows(_help_rows(chosen, session.terminal.width))
    if not argument:
        session.terminal.line()
        session.say(_KEYS)
    elif chosen[0].name in _MORE:
        session.say(_MORE[chosen[0].name])


def _help_rows(commands: list[Command], width: int) -> list[Row]:
    """Usage and summary beside each other; below each other where the window is too narrow for that."""
    column = max(len(f"/{command.name} {command.usage}") for command in commands) + 2
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


def _effort(session: ChatSession, argument: str) -> None:
    cost = 0
    if argument:
        effort = as_effort(argument)
        if session.has_chat and session.chat.messages and effort != session.effort:
            cost = session.chat.tokens_to_prefill(effort)
        session.effort = effort
    remark = f": the next answer first reads {cost:,} tokens of this chat again" if cost else ""
    session.say(f"effort {session.effort}{remark}")


def _think(session: ChatSession, argument: str) -> None:
    if argument:
        session.think = as_think_mode(argument)
    session.say(f"thinking {session.think}")


def _system(session: ChatSession, argument: str) -> None:
    if argument:
        session.system = None if argument == "clear" else argument
        if session.has_chat:
            session.chat.instructions = session.system
            session.save()
    session.say(f"instructions: {session.system or '(none)'}")


def _retry(session: ChatSession, argument: str) -> None:
    effort = as_effort(argument) if argument else None
    session.show(session.chat.stream_retry(effort=effort))


def _edit(session: ChatSession, argument: str) -> None:
    from .transcript import last_question

    _, question = last_question(session.chat)
    if argument or not session.interactive:
        session.editing = True
        session.ask(argument or question)
    else:
        session.editing, session.typed = True, question


def _undo(session: ChatSession, _argument: str) -> None:
    question = session.chat.undo()
    session.save()
    session.context = session.chat.context_used
    session.say(f"taken back: {' '.join(question.split())[:60]}")


def _continue(session: ChatSession, _argument: str) -> None:
    session.show(session.chat.continue_stream())


def _file(session: ChatSession, argument: str) -> None:
    from .attachments import read_file

    try:
        words = shlex.split(argument)
    except ValueError as error:
        raise InvalidRequest(f"{argument}: {error}; quote paths with spaces") from error
    paths = [as_path(word) for word in words]
    if not paths:
        raise InvalidRequest("which file? /file PATH…")
    for path in paths:
        read_file(path)
    session.attachments += paths
    session.say(f"with the next question: {', '.join(map(str, session.attachments))}")


def _copy(session: ChatSession, _argument: str) -> None:
    from .clipboard import copy
    from .transcript import last_answer

    text = last_answer(session.chat)
    session.say(f"copied {len(text):,} characters ({copy(text, session.terminal)})")


def _save(session: ChatSession, argument: str) -> None:
    if argument:
        path = as_path(argument)
        session.chat.save(path)
        session.say(f"saved a copy as {path}")
    else:
        session.chat  # noqa: B018  (so that there is something to save)
        session.save()
        session.say(f"saved, as every turn is: {session.path}" if session.path else "nothing to save yet")


def _load(session: ChatSession, argument: str) -> None:
    from .sessions import find_chat

    session.open_chat(find_chat(argument))


def _export(session: ChatSession, argument: str) -> None:
    from ..files import write_text
    from .transcript import as_markdown

    if not argument:
        raise InvalidRequest("where to? /export PATH.md or PATH.json")
    path = as_path(argument)
    if path.suffix == ".json":
        session.chat.save(path)
    else:
        write_text(path, as_markdown(session.chat, session.loader.reference), private=True)
    session.say(f"wrote {path}")


def _new(session: ChatSession, _argument: str) -> None:
    session.use_chat(None, None)
    session.say("a new chat")


def _history(session: ChatSession, _argument: str) -> None:
    from .transcript import show_transcript

    if not session.chat.messages:
        raise InvalidRequest("nothing was asked yet")
    session.terminal.line()
    show_transcript(session.chat, session.terminal)


def _fork(session: ChatSession, _argument: str) -> None:
    if not session.chat.messages:
        raise InvalidRequest("nothing was asked yet, so there is nothing to copy")
    original = session.path
    session.use_chat(session.chat.fork(), None)
    session.save()
    session.say(f"going on in a copy; what was said so far stays in {original.stem if original else 'memory'}")


def _compare(session: ChatSession, argument: str) -> None:
    from .transcript import last_question

    base = session.chat
    question = argument or last_question(base)[1]
    for effort in EFFORTS:
        session.terminal.rows([(Span(f"── {effort} ──", f"{BOLD};{CYAN}"),)])
        fork = base.fork()
        if not argument:
            fork.undo()
        reply = session.show(fork.stream(question, effort=effort), save=False)
        if reply.finish_reason == "cancelled":
            break


def _trace(session: ChatSession, _argument: str) -> None:
    rows: list[Row] = []
    entries = session.chat.trace()
    for entry in entries:
        state = ("cached" if entry.cached else "to prefill") if entry.kept else "dropped"
        style = DIM if not entry.kept else GREEN if entry.cached else ""
        message = entry.message
        head = f"{message.author.role!s:<10} {message.channel or '':<11} {entry.tokens:>7,}  {state:<10}  "
        rows.append(_one_line((Span(head, style), Span(" ".join(message.text.split())[:200], DIM)), session))
    session.terminal.rows(rows)
    prompt = sum(entry.tokens for entry in entries if entry.kept)
    cached = sum(entry.tokens for entry in entries if entry.cached)
    dropped = sum(entry.tokens for entry in entries if not entry.kept)
    prefill = prompt - cached
    session.say(f"prompt {prompt:,} tokens: {cached:,} cached, {prefill:,} to prefill; {dropped:,} dropped")


def _one_line(row: Row, session: ChatSession) -> Row:
    return clip(row, max(session.terminal.width - 1, 10)) if session.interactive else row


def _stats(session: ChatSession, _argument: str) -> None:
    session.say("\n".join(session.stats.lines()))


def _model(session: ChatSession, argument: str) -> None:
    if argument:
        session.use_model(argument)
        session.say(f"model {session.loader.reference}")
        return
    from ..hub import list_models

    names = ", ".join(model.name for model in list_models())
    session.say(f"model {session.loader.reference}; on this disk: {names}")


def _quit(session: ChatSession, _argument: str) -> None:
    session.leaving = True


COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command(name="help", usage="[COMMAND]", summary="List the commands", act=_help),
        Command(name="effort", usage="low|medium|high", summary="How long to think", act=_effort, values=EFFORTS),
        Command(
            name="think",
            usage="|".join(THINK_MODES),
            summary="How thinking is shown",
            act=_think,
            values=THINK_MODES,
        ),
        Command(
            name="system",
            usage="TEXT|clear",
            summary="Instructions for the whole chat",
            act=_system,
            values=("clear",),
        ),
        Command(name="retry", usage="[EFFORT]", summary="Answer again", act=_retry, values=EFFORTS),
        Command(name="edit", usage="[TEXT]", summary="Change the last question", act=_edit),
        Command(name="undo", summary="Take the last turn back", act=_undo),
        Command(name="continue", summary="Go on with an answer that was cut off", act=_continue),
        Command(name="file", usage="PATH…", summary="Send files with the next question", act=_file, path=True),
        Command(name="copy", summary="Copy the last answer", act=_copy),
        Command(
            name="save",
            usage="[PATH]",
            summary="Save a copy; every turn is saved by itself",
            act=_save,
            path=True,
        ),
        Command(name="load", usage="[NAME|PATH]", summary="Go on with a saved chat", act=_load, path=True),
        Command(
            name="export", usage="PATH", summary="Write the chat as Markdown (.md) or JSON", act=_export, path=True
        ),
        Command(name="new", summary="Begin a new chat", act=_new),
        Command(name="history", summary="Show the chat so far", act=_history),
        Command(name="fork", summary="Go on in a copy", act=_fork),
        Command(
            name="compare", usage="[QUESTION]", summary="Answers at low, medium and high effort", act=_compare
        ),
        Command(name="trace", summary="What the model sees: messages, tokens, cache", act=_trace),
        Command(name="stats", summary="Figures of this session", act=_stats),
        Command(name="model", usage="[NAME]", summary="Go on with another model", act=_model),
        Command(name="quit", summary="Leave; Ctrl-D does too", act=_quit),
    )
}
