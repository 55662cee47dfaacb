"""The slash commands that ask, answer and set; the table of commands, with the words of help, is in `commands`."""

from __future__ import annotations

import textwrap
from pathlib import Path

from ...arguments import Effort
from ...errors import InvalidRequest
from ..screen.spans import BOLD, CYAN, Span
from ..settings import EFFORTS, as_effort, as_stats_line, as_think_mode
from .attachments import read_file, split_files
from .chats import only_word, words_of
from .session import ChatSession

__all__ = [
    "compare",
    "continue_answer",
    "copy",
    "edit",
    "effort",
    "file",
    "model",
    "retry",
    "stats",
    "stop",
    "system",
    "think",
    "thinking",
    "trace",
    "undo",
]


def effort(session: ChatSession, argument: str) -> None:
    """Set the effort; says how many tokens a change makes the model read again."""
    remark = ""
    if argument:
        chosen = as_effort(argument)
        remark = _reading_again(session, chosen, "the next answer")
        session.effort = chosen
    session.say(f"effort {session.effort}{remark}")


def _reading_again(session: ChatSession, chosen: Effort, answer: str) -> str:
    """The cost of a changed effort, which stands at the start of the prompt; empty: none."""
    if not session.has_chat or not session.chat.messages or chosen == session.effort:
        return ""
    cost = session.chat.tokens_to_prefill(chosen)
    return f": {answer} first reads {cost:,} tokens of this chat again" if cost else ""


def think(session: ChatSession, argument: str) -> None:
    """Set how thinking is shown."""
    if argument:
        session.think = as_think_mode(argument)
    session.say(f"thoughts: {session.thoughts}")


def thinking(session: ChatSession, _argument: str) -> None:
    """Show the thinking before the last answer."""
    session.unfold()


def system(session: ChatSession, argument: str) -> None:
    """Set or clear the instructions."""
    if argument:
        session.system = None if argument == "clear" else argument
        if session.has_chat:
            session.chat.instructions = session.system
            session.save()
    session.say(f"instructions: {session.system or '(none)'}")


def retry(session: ChatSession, argument: str) -> None:
    """Discard the last answer and ask again."""
    if not argument:
        session.show(session.chat.stream_retry())
        return
    chosen = as_effort(argument)
    remark = _reading_again(session, chosen, "this answer")
    stream = session.chat.stream_retry(effort=chosen)
    if remark:
        session.say(f"effort {chosen}{remark}")
    session.show(stream)


def edit(session: ChatSession, argument: str) -> None:
    """Replace the last question by ``argument``, or put it into the prompt to be changed."""
    question = session.edit()
    if argument or not session.interactive:
        session.ask(argument or question)
        return
    session.typed = question
    if session.attachments:
        session.say(f"{_summaries(session)} stays attached; /file clear removes it")


def undo(session: ChatSession, argument: str) -> None:
    """Take back the last turn, or as many as ``argument`` says."""
    if argument and not (argument.isdecimal() and int(argument)):
        raise InvalidRequest(f"/undo {argument}: how many turns? a whole number from 1 on")
    count = int(argument or 1)
    asked = sum(message.author.role == "user" for message in session.chat.messages)
    if count > max(asked, 1):  # where nothing was asked, the chat itself says so
        turns = "1 turn" if asked == 1 else f"{asked} turns"
        raise InvalidRequest(f"/undo {count}: only {turns} can be taken back")
    for _ in range(count):
        question = session.chat.undo()
    session.stop_editing()
    session.save()
    session.context = session.chat.context_used
    turns = f"{count} turns, back to: " if count > 1 else ""
    text = " ".join(split_files(question)[1].split())
    session.say(f"taken back: {turns}{textwrap.shorten(text, 60, placeholder='…')}")


def continue_answer(session: ChatSession, _argument: str) -> None:
    """Continue an answer that was cut off."""
    session.show(session.chat.continue_stream())


def file(session: ChatSession, argument: str) -> None:
    """Attach files to the next question, list those attached, or remove them."""
    if argument == "clear":
        session.attachments = []
    else:
        files = [*session.attachments, *(read_file(Path(word)) for word in words_of(argument))]
        # A file named twice, by whatever path, is sent once.
        session.attachments = list({file.path.resolve() if file.path else file: file for file in files}.values())
    if session.attachments:
        session.say(f"attached to the next question: {_summaries(session)}; /file clear removes them")
    else:
        session.say("no files are attached; /file PATH… attaches some to the next question")


def _summaries(session: ChatSession) -> str:
    return ", ".join(file.summary for file in session.attachments)


def copy(session: ChatSession, _argument: str) -> None:
    """Copy the last answer."""
    from ..screen.clipboard import copy as copy_text
    from .history import last_answer

    text = last_answer(session.chat)
    session.say(f"copied {len(text):,} characters ({copy_text(text, session.terminal)})")


def compare(session: ChatSession, argument: str) -> None:
    """Answer a question at each effort, in forks of the chat."""
    from .history import last_question

    base = session.chat
    question = argument or last_question(base)[1]
    for chosen in EFFORTS:
        session.terminal.rows([(Span(f"── {chosen} ──", f"{BOLD};{CYAN}"),)])
        branch = base.fork()
        if not argument:
            branch.undo()
        reply = session.show(branch.stream(question, effort=chosen), fork=branch)
        if reply.finish_reason == "cancelled":
            break


def trace(session: ChatSession, _argument: str) -> None:
    """Show the messages as the model sees them."""
    from .trace import trace_rows, trace_summary

    entries = session.chat.trace()
    width = max(session.terminal.width - 1, 10) if session.interactive else None
    session.terminal.rows(trace_rows(entries, width))
    session.say(trace_summary(entries))


def stats(session: ChatSession, argument: str) -> None:
    """Show the figures of this session, or set the line after each answer."""
    if not argument:
        session.say("\n".join(session.stats.lines()))
        return
    form = argument.removeprefix("line").strip()
    if form:
        session.stats_line = as_stats_line(form)
    session.say(f"line after an answer: {session.stats_line}")


def model(session: ChatSession, argument: str) -> None:
    """Go on with another model, or list those on this disk."""
    if argument:
        session.use_model(only_word(argument))
        session.say(f"model {session.loader.reference}")
        return
    from ...hub.models import list_models

    names = ", ".join(entry.name for entry in list_models())
    session.say(f"model {session.loader.reference}; on this disk: {names}")


def stop(session: ChatSession, _argument: str) -> None:
    """Leave."""
    session.leaving = True
