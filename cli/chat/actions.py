"""The slash commands that ask, answer and set; the table of commands, with the words of help, is in `commands`."""

from __future__ import annotations

import textwrap

from ...arguments import Effort
from ...errors import InvalidRequest
from ..screen.spans import BOLD, CYAN, YELLOW, Span
from ..settings import DEFAULTS, EFFORTS, as_effort, as_setting, as_stats_line, as_think_mode
from .attachments import read_files, split_files, summary_of
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
    "sampling",
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
        session.say(f"{summary_of(session.attachments)} stays attached; /file clear removes it")


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
    skipped = 0
    if argument == "clear":
        session.attachments = []
    for word in words_of(argument) if argument != "clear" else ():
        files, others = read_files(word)
        session.attach(files)
        skipped += others
    if skipped:
        session.say(f"{skipped:,} file{'s' if skipped > 1 else ''} left out, not text or larger than 4 MB")
    if session.attachments:
        files_ = summary_of(session.attachments)
        session.say(f"attached to the next question: {files_}; /file clear removes them")
    else:
        session.say("no files are attached; /file PATH… attaches some to the next question")


def copy(session: ChatSession, argument: str) -> None:
    """Copy the last answer, or a block of code in it."""
    from ..screen.clipboard import copy as copy_text
    from .history import last_answer

    text = last_answer(session.chat)
    what, _, number = argument.partition(" ")
    if what not in ("", "code"):
        raise InvalidRequest(
            f"/copy {argument}: /copy copies the answer, /copy code its code, /copy code 2 a block"
        )
    place = ""
    if what:
        text, place = _code_block(text, number.strip())
    session.say(f"copied {place}{len(text):,} characters ({copy_text(text, session.terminal)})")


def _code_block(answer: str, number: str) -> tuple[str, str]:
    """A block of code by its number, or else the last one; and which of several it is, for the user."""
    from markdown_it import MarkdownIt

    # Not the parser of the screen, which makes spaces of tabs.
    blocks = [token.content for token in MarkdownIt().parse(answer) if token.type in ("fence", "code_block")]
    if not blocks:
        raise InvalidRequest("the last answer has no block of code; /copy copies all of it")
    if number and not (number.isdecimal() and 0 < int(number) <= len(blocks)):
        raise InvalidRequest(f"/copy code {number}: which block? 1 to {len(blocks)}")
    chosen = int(number or len(blocks))
    return blocks[chosen - 1], f"block {chosen} of {len(blocks)}, " if len(blocks) > 1 else ""


def sampling(session: ChatSession, argument: str, *, name: str) -> None:
    """Show or set one of the values that decide how tokens are chosen; ``clear`` restores the default."""
    command = f"/{name.replace('_', '-')}"
    if argument:
        value = DEFAULTS[name] if argument == "clear" else as_setting(name, argument, command)
        session.set_sampling(**{name: value})
        if session.settings.warning:
            session.say(session.settings.warning, YELLOW)
    value = getattr(session.settings, name)
    session.say(f"{command[1:]}: {'not set' if value is None else value}")


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
