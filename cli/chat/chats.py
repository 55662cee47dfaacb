"""The slash commands that open, name, copy, write and delete chats; the table of commands is in `commands`."""

from __future__ import annotations

import shlex
from pathlib import Path

from ...errors import ChatFileError, InvalidRequest
from ...files.write import as_path
from ..screen.spans import visible
from .saved import chats_named, copy_title, delete_chat, find_chat, only_chat, saved_chat, saved_chats, show_list
from .session import ChatSession

__all__ = [
    "chats",
    "choose_chat",
    "delete",
    "export",
    "fork",
    "history",
    "load",
    "new",
    "only_word",
    "rename",
    "save",
    "words_of",
]

_LONGEST_TITLE = 120


def choose_chat(words: str, other_than: Path | None = None) -> Path | None:
    """The saved chat that the user picks from a list; None if none was picked.

    Args:
        words: narrow the list.
        other_than: the open chat, which is not in the list.

    Raises:
        ChatFileError: there is no other chat, or none contains the words.
    """
    from .picker import Entry, matching, pick

    listed = [chat for chat in saved_chats() if chat.path != other_than]
    if not listed:
        raise ChatFileError("no other chat is saved" if other_than else "no chat is saved yet: gptoss chat")
    entries = [
        Entry(title=chat.title, facts=(chat.age, chat.length, chat.model), text=chat.text) for chat in listed
    ]
    if not matching(entries, words):
        raise ChatFileError(f"{words}: no saved chat contains this; gptoss chat --list shows the chats")
    chosen = pick(entries, words, lambda position: delete_chat(listed[position].path))
    return None if chosen is None else listed[chosen].path


def chats(session: ChatSession, argument: str) -> None:
    """Pick a saved chat and go on with it; in a script, list them."""
    if not session.interactive:
        show_list()
    elif path := choose_chat(argument, other_than=session.path):
        session.open_chat(path)


def load(session: ChatSession, argument: str) -> None:
    """Go on with a saved chat; where several have that name, the user picks one."""
    named = chats_named(argument) if argument else []
    if session.interactive and len(named) > 1:
        chats(session, argument)
    else:
        name = argument if named else only_word(argument)
        session.open_chat(find_chat(name, other_than=session.path))


def rename(session: ChatSession, argument: str) -> None:
    """Give the chat another title, or put the present one into the prompt to be changed."""
    title = " ".join(visible(argument).split())
    if len(title) > _LONGEST_TITLE:
        raise InvalidRequest(f"a title of {len(title)} characters: {_LONGEST_TITLE} are the most")
    if title:
        session.chat.title = title
        session.save()
        session.say(f"this chat is now called “{title}”")
    elif session.interactive and session.has_chat and session.chat.title:
        session.typed = f"/rename {session.chat.title}"
    else:
        session.say(f"title: {session.chat.title or '(none yet)'}")


def delete(session: ChatSession, argument: str, over: bool = False) -> None:
    """Delete this chat or the one that is named, after asking."""
    if not argument and session.path is None:
        raise InvalidRequest("this chat is not saved yet, so there is nothing to delete")
    chat = only_chat(argument) if argument or session.path is None else saved_chat(session.path)
    what = f"“{chat.title}” ({chat.length})"
    if not over and not session.confirm(f"Delete {what} for good?"):
        remedy = "" if session.interactive else f"; to delete it unasked: /delete! {argument}".rstrip()
        session.say(f"{what} was not deleted{remedy}")
        return
    delete_chat(chat.path)
    if chat.path == session.path:
        new(session, "")
    session.say(f"deleted {what}")


def fork(session: ChatSession, argument: str) -> None:
    """Go on in a copy with a title of its own; the original stays saved."""
    if not session.chat.messages:
        raise InvalidRequest("nothing was asked yet, so there is nothing to copy")
    session.save()
    original = session.chat.title or ""
    twin = session.chat.fork()
    twin.title = visible(argument) or copy_title(original, (chat.title for chat in saved_chats()))
    session.use_chat(twin, None)
    session.save()
    session.say(f"this is now “{twin.title}”; the chat so far stays saved as “{original}”")


def save(session: ChatSession, argument: str, over: bool = False) -> None:
    """Save a copy at ``argument``; without one, the chat itself."""
    if argument:
        path = _destination(session, "save", argument, over)
        session.chat.save(path)
        session.written.add(path.resolve())
        session.say(f"saved a copy as {path}")
    else:
        session.chat  # noqa: B018  (begins the chat, so that there is something to save)
        session.save()
        session.say(f"saved, as after every turn: {session.path}" if session.path else "nothing to save yet")


def export(session: ChatSession, argument: str, over: bool = False) -> None:
    """Write the chat as Markdown, or as JSON where the name ends in .json."""
    from ...files.write import write_text
    from .history import as_markdown

    if not argument:
        raise InvalidRequest("export to which file? /export PATH.md or PATH.json")
    path = _destination(session, "export", argument, over)
    if path.suffix == ".json":
        session.chat.save(path)
    else:
        write_text(path, as_markdown(session.chat, session.loader.reference), private=True)
    session.written.add(path.resolve())
    session.say(f"wrote {path}")


def new(session: ChatSession, _argument: str) -> None:
    """Begin a new chat."""
    session.use_chat(None, None)
    session.attachments = []
    session.say("a new chat")


def history(session: ChatSession, _argument: str) -> None:
    """Show the chat so far."""
    from .history import show_transcript

    if not session.chat.messages:
        raise InvalidRequest("nothing was asked yet")
    session.terminal.line()
    show_transcript(session.chat, session.terminal)


def words_of(argument: str) -> list[str]:
    """``argument`` split as a shell does it: quotes and backslashes keep spaces together."""
    try:
        return shlex.split(argument)
    except ValueError as error:
        raise InvalidRequest(f"{argument}: {error}; quote paths with spaces") from error


def only_word(argument: str) -> str:
    """The only word of ``argument``; empty if there is none."""
    words = words_of(argument)
    if len(words) > 1:
        raise InvalidRequest(f"{argument}: name only one; quote paths with spaces")
    return words[0] if words else ""


def _destination(session: ChatSession, name: str, argument: str, over: bool) -> Path:
    """The file to write: a new one, one that this chat wrote before, or any if ``over``."""
    path = as_path(only_word(argument))
    if path.is_dir() or over or not path.exists() or session.owns(path):
        return path
    raise InvalidRequest(f"{path}: exists; choose another name, or replace it: /{name}! {argument}")
