"""What may follow a slash: one table of commands, read by the dispatcher, by /help and by the completer."""

from __future__ import annotations

import difflib
import functools
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InvalidRequest
from ...files.write import as_path
from ..screen.spans import BOLD, CYAN, Span
from ..settings import EFFORTS, THINK_MODES, as_effort, as_think_mode

if TYPE_CHECKING:
    from .session import ChatSession

__all__ = ["COMMANDS", "Command", "Commands"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command."""

    name: str
    usage: str = ""
    """What may follow it; nothing where this is empty."""
    summary: str
    act: Callable[[ChatSession, str], None]
    act_over: Callable[[ChatSession, str], None] | None = None
    """With a ``!`` behind its name: the same, over a file that is already there."""
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
        command, argument = _find(name.removesuffix("!")), argument.strip()
        act = command.act_over if name.endswith("!") else command.act
        if act is None:
            raise InvalidRequest(f"/{name}: there is no such form; it is /{command.name} {command.usage}".rstrip())
        if argument and not command.usage:
            raise InvalidRequest(f"/{command.name} {argument}: nothing can follow /{command.name}")
        act(self._session, argument)

    def names(self) -> Iterable[tuple[str, str]]:
        return [(command.name, command.summary) for command in COMMANDS.values()]

    def values(self, name: str) -> Iterable[str]:
        if name == "help":
            return COMMANDS
        if name == "load":
            from .saved import saved_chats

            return [chat.name for chat in saved_chats()]
        if name == "model":
            from ...hub.models import list_models

            return [model.name for model in list_models()]
        return COMMANDS[name].values if name in COMMANDS else ()

    def takes_path(self, name: str) -> bool:
        command = COMMANDS.get(name.removesuffix("!"))
        return command is not None and command.path


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


def _words(argument: str) -> list[str]:
    """``argument`` as a shell takes it apart: quotes and backslashes keep spaces together."""
    try:
        return shlex.split(argument)
    except ValueError as error:
        raise InvalidRequest(f"{argument}: {error}; quote paths with spaces") from error


def _word(argument: str) -> str:
    """The only word of ``argument``; empty if there is none."""
    words = _words(argument)
    if len(words) > 1:
        raise InvalidRequest(f"{argument}: only one can be named; quote paths with spaces")
    return words[0] if words else ""


def _target(session: ChatSession, name: str, argument: str, over: bool) -> Path:
    """The file to write: a new one, one that this chat wrote before, or any if ``over``."""
    path = as_path(_word(argument))
    if path.is_dir() or over or not path.exists() or session.owns(path):
        return path
    raise InvalidRequest(f"{path}: exists; name another, or write over it: /{name}! {argument}")


def _help(session: ChatSession, argument: str) -> None:
    from .help import KEYS, MORE, help_rows

    chosen = [_find(argument.removeprefix("/"))] if argument else list(COMMANDS.values())
    session.terminal.rows(help_rows(chosen, session.terminal.width))
    if not argument:
        session.terminal.line()
        session.say(KEYS)
    elif chosen[0].name in MORE:
        session.say(MORE[chosen[0].name])


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
    from .history import last_question

    _, question = last_question(session.chat)
    if argument or not session.interactive:
        session.editing = True
        session.ask(argument or question)
    else:
        session.editing, session.typed = True, question


def _undo(session: ChatSession, argument: str) -> None:
    if argument and not (argument.isdecimal() and int(argument)):
        raise InvalidRequest(f"/undo {argument}: how many turns? a whole number from 1 on")
    count = int(argument or 1)
    asked = sum(message.author.role == "user" for message in session.chat.messages)
    if count > max(asked, 1):  # where nothing was asked, the chat says so
        turns = "1 turn" if asked == 1 else f"{asked} turns"
        raise InvalidRequest(f"/undo {count}: only {turns} can be taken back")
    for _ in range(count):
        question = session.chat.undo()
    session.editing = False
    session.save()
    session.context = session.chat.context_used
    turns = f"{count} turns, back to: " if count > 1 else ""
    session.say(f"taken back: {turns}{' '.join(question.split())[:60]}")


def _continue(session: ChatSession, _argument: str) -> None:
    session.show(session.chat.continue_stream())


def _file(session: ChatSession, argument: str) -> None:
    from .attachments import read_file

    if argument == "clear":
        session.attachments.clear()
    else:
        paths = [as_path(word) for word in _words(argument)]
        for path in paths:
            read_file(path)
        # The same file twice, under whatever name, goes once.
        named = {path.resolve(): path for path in [*session.attachments, *paths]}
        session.attachments = list(named.values())
    if session.attachments:
        waiting = ", ".join(map(str, session.attachments))
        session.say(f"with the next question: {waiting}; /file clear leaves them out")
    else:
        session.say("no files go with the next question; /file PATH… adds some")


def _copy(session: ChatSession, _argument: str) -> None:
    from ..screen.clipboard import copy
    from .history import last_answer

    text = last_answer(session.chat)
    session.say(f"copied {len(text):,} characters ({copy(text, session.terminal)})")


def _save(session: ChatSession, argument: str, over: bool = False) -> None:
    if argument:
        path = _target(session, "save", argument, over)
        session.chat.save(path)
        session.written.add(path.resolve())
        session.say(f"saved a copy as {path}")
    else:
        session.chat  # noqa: B018  (so that there is something to save)
        session.save()
        session.say(f"saved, as every turn is: {session.path}" if session.path else "nothing to save yet")


def _load(session: ChatSession, argument: str) -> None:
    from .saved import find_chat

    session.open_chat(find_chat(_word(argument)))


def _export(session: ChatSession, argument: str, over: bool = False) -> None:
    from ...files.write import write_text
    from .history import as_markdown

    if not argument:
        raise InvalidRequest("where to? /export PATH.md or PATH.json")
    path = _target(session, "export", argument, over)
    if path.suffix == ".json":
        session.chat.save(path)
    else:
        write_text(path, as_markdown(session.chat, session.loader.reference), private=True)
    session.written.add(path.resolve())
    session.say(f"wrote {path}")


def _new(session: ChatSession, _argument: str) -> None:
    session.use_chat(None, None)
    session.attachments.clear()
    session.say("a new chat")


def _history(session: ChatSession, _argument: str) -> None:
    from .history import show_transcript

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
    from .history import last_question

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
    from .trace import trace_rows, trace_summary

    entries = session.chat.trace()
    width = max(session.terminal.width - 1, 10) if session.interactive else None
    session.terminal.rows(trace_rows(entries, width))
    session.say(trace_summary(entries))


def _stats(session: ChatSession, _argument: str) -> None:
    session.say("\n".join(session.stats.lines()))


def _model(session: ChatSession, argument: str) -> None:
    if argument:
        session.use_model(_word(argument))
        session.say(f"model {session.loader.reference}")
        return
    from ...hub.models import list_models

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
        Command(name="undo", usage="[N]", summary="Take the last turn back, or N turns", act=_undo),
        Command(name="continue", summary="Go on with an answer that was cut off", act=_continue),
        Command(
            name="file",
            usage="[PATH…|clear]",
            summary="Send files with the next question",
            act=_file,
            values=("clear",),
            path=True,
        ),
        Command(name="copy", summary="Copy the last answer", act=_copy),
        Command(
            name="save",
            usage="[PATH]",
            summary="Save a copy; every turn is saved by itself",
            act=_save,
            act_over=functools.partial(_save, over=True),
            path=True,
        ),
        Command(name="load", usage="[NAME|PATH]", summary="Go on with a saved chat", act=_load, path=True),
        Command(
            name="export",
            usage="PATH",
            summary="Write the chat as Markdown (.md) or JSON",
            act=_export,
            act_over=functools.partial(_export, over=True),
            path=True,
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
