"""Text to tokens and back: a tiktoken Encoding built from the checkpoint's own tokenizer.json.

Nothing is downloaded. Ids come from the file by name, so a checkpoint with a smaller vocabulary works the same
way. Text is always encoded as ordinary text: ``<|end|>`` typed by a user never becomes a control token. Words that
a fine-tune added to its vocabulary are found in text as transformers finds them. Of harmony this module knows only
the names of the control tokens.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tiktoken

from .arguments import checked_tokens
from .errors import InvalidRequest, TokenizerError
from .files.read import inside, parse_json, read_regular, short_repr

__all__ = ["CONTROL_TOKENS", "O200K_PATTERN", "AddedWord", "Tokenizer", "largest_id"]

# harmony needs all of these.
CONTROL_TOKENS = (
    "<|endoftext|>",
    "<|return|>",
    "<|constrain|>",
    "<|channel|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|call|>",
)

# o200k_base, as published in tiktoken (MIT).
O200K_PATTERN = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)

_CONTROL_SHAPE = re.compile(r"<\|.*\|>", re.DOTALL)
"""Names that are control tokens whatever a file calls them."""
_REPLACEMENT = "\ufffd".encode()
_MAX_FILE_BYTES = 64 * 2**20  # gpt-oss's file has 28 MB
_MAX_PATTERN = 4096
# The pattern backtracks once for every white space character in a row; at a million of them tiktoken panics.
_MAX_WHITE_SPACE = 500_000
# Every pattern must split this text without loss: letters of several scripts, digits, spaces, marks, line breaks.
_PROBE = "Hello, wörld 東京 12345 it's  a\ttest\r\n\n <|end|> \u0301\u200d🇳🇴 ==/ "


@contextmanager
def _silent_panics() -> Iterator[None]:
    """Rust writes a panic to standard error before Python sees it as an error; this discards the text."""
    try:
        saved = os.dup(2)
    except OSError:  # standard error is closed
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedWord:
    """A token that a fine-tune added, found in text before the text is split."""

    text: str
    token: int
    lstrip: bool = False
    """Whether it takes the white space before it."""
    rstrip: bool = False
    single_word: bool = False
    """Whether it is found between other characters than letters, digits and underscores only."""


class _AddedWords:
    """Finds added words: the leftmost, and of those that begin there the longest."""

    def __init__(self, words: Iterable[AddedWord]) -> None:
        self._words = {word.text: word for word in words}
        longest_first = sorted(self._words, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(self._expression, longest_first)))

    def _expression(self, text: str) -> str:
        return rf"(?<!\w){re.escape(text)}(?!\w)" if self._words[text].single_word else re.escape(text)

    def split(self, text: str) -> Iterator[str | int]:
        """The text between added words, and their tokens."""
        position = 0
        for match in self._pattern.finditer(text):
            word = self._words[match[0]]
            before = text[position : match.start()]
            yield before.rstrip() if word.lstrip else before
            yield word.token
            position = match.end()
            if word.rstrip:
                position = len(text) - len(text[position:].lstrip())
        yield text[position:]


class Tokenizer:
    """Encodes ordinary text, decodes tokens, and has the ids of the control tokens by name.

    Args:
        ranks: the bytes of every ordinary token and its id; merges are applied in the order of the ids.
        special: the name of every control token and its id.
        pattern: the regular expression that splits text before merging.
        added: words of a fine-tune's own.

    Raises:
        TokenizerError: a byte without a token, an id used twice, or a control token of harmony missing.

    Example:
        >>> tokenizer = model.tokenizer
        >>> tokenizer.decode(tokenizer.encode("2+3"))
        '2+3'
        >>> end = tokenizer.special_id("<|end|>")
        >>> tokenizer.is_special(end), tokenizer.token_bytes(end)
        (True, b'<|end|>')
    """

    def __init__(
        self,
        ranks: Mapping[bytes, int],
        special: Mapping[str, int],
        pattern: str = O200K_PATTERN,
        added: Sequence[AddedWord] = (),
    ) -> None:
        _check_vocabulary(ranks, special, added)
        try:
            self._encoding = tiktoken.Encoding(
                "gpt-oss", pat_str=pattern, mergeable_ranks=dict(ranks), special_tokens=dict(special)
            )
        except ValueError as error:
            raise TokenizerError(f"tokenizer pattern does not compile: {error}") from error
        self.special: Mapping[str, int] = MappingProxyType(dict(special))
        self._special_ids = frozenset(special.values())
        self._bytes: dict[int, bytes] = {token: piece for piece, token in ranks.items()}
        self._bytes.update({token: name.encode() for name, token in special.items()})
        self._bytes.update({word.token: word.text.encode() for word in added})
        self._added = _AddedWords(added) if added else None
        self.size = max(self._bytes) + 1
        # The published pattern matches every text. For any other pattern each text is checked.
        self._pattern_is_known = pattern == O200K_PATTERN
        self._encode_checked(_PROBE)

    @classmethod
    def from_ranks(
        cls, ranks: Mapping[bytes, int], special: Mapping[str, int], pattern: str = O200K_PATTERN
    ) -> Tokenizer:
        """A tokenizer from tiktoken's data. The arguments are those of the class.

        Example:
            >>> ranks = {bytes([value]): value for value in range(256)}
            >>> special = {name: 256 + place for place, name in enumerate(CONTROL_TOKENS)}
            >>> Tokenizer.from_ranks(ranks, special).encode("Hi")
            [72, 105]
        """
        return cls(ranks, special, pattern)

    @classmethod
    def from_directory(cls, directory: str | Path) -> Tokenizer:
        """Reads ``tokenizer.json`` (Hugging Face form, byte-level BPE).

        Raises:
            TokenizerError: the file is missing, is not a byte-level BPE, or its entries contradict each other.

        Example:
            >>> Tokenizer.from_directory(model.directory).size == model.tokenizer.size
            True
        """
        path = Path(directory) / "tokenizer.json"
        try:
            content = parse_json(read_regular(inside(path), _MAX_FILE_BYTES))
        except FileNotFoundError:
            raise TokenizerError(f"{path}: missing; download the checkpoint's tokenizer.json too") from None
        except OSError as error:
            raise TokenizerError(f"{path}: cannot be read ({error.strerror}); download it again") from error
        except (ValueError, RecursionError) as error:
            raise TokenizerError(f"{path}: cannot be read as JSON ({error}); download it again") from error
        try:
            return cls(*_parse_tokenizer_json(content))
        except TokenizerError as error:
            raise TokenizerError(f"{path}: {error}") from error

    def encode(self, text: str) -> list[int]:
        """Encodes ordinary text; the names of control tokens in it are ordinary characters.

        Raises:
            InvalidRequest: more than half a million white space characters in a row, too many for the pattern.
            TokenizerError: the checkpoint's own pattern does not match all of the text.

        Example:
            >>> model.tokenizer.special["<|end|>"] in model.tokenizer.encode("<|end|>")
            False
        """
        if len(text) > _MAX_WHITE_SPACE:
            longest = max((len(run) for run in re.findall(r"\s+", text)), default=0)
            if longest > _MAX_WHITE_SPACE:
                raise InvalidRequest(f"text has {longest} white space characters in a row; remove most of them")
        if self._added is None:
            return self._encode_piece(text)
        tokens: list[int] = []
        for part in self._added.split(text):
            tokens += [part] if isinstance(part, int) else self._encode_piece(part)
        return tokens

    def _encode_piece(self, text: str) -> list[int]:
        return self._encoding.encode_ordinary(text) if self._pattern_is_known else self._encode_checked(text)

    def _encode_checked(self, text: str) -> list[int]:
        """Encodes with an unknown pattern, which may lose text, or match nothing and make tiktoken panic."""
        try:
            with nullcontext() if self._pattern_is_known else _silent_panics():
                tokens = self._encoding.encode_ordinary(text)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # PyO3 exports no class to catch
                raise
            tokens = []
        # tiktoken joins surrogate pairs and replaces lone halves; the comparison must too.
        if self.decode(tokens) != text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"):
            raise TokenizerError("tokenizer pattern loses text; this is not gpt-oss's tokenizer")
        return tokens

    def decode(self, tokens: Iterable[int]) -> str:
        """Decodes tokens; control tokens appear by name, invalid UTF-8 as U+FFFD.

        Args:
            tokens: any iterable of ids, or an array of NumPy or MLX with one dimension.

        Raises:
            InvalidRequest: the tokenizer has no token with one of the ids.

        Example:
            >>> model.tokenizer.decode([model.tokenizer.special["<|end|>"]])
            '<|end|>'
        """
        listed = checked_tokens(list(tokens) if isinstance(tokens, Iterator) else tokens)
        try:
            return b"".join([self._bytes[token] for token in listed]).decode("utf-8", errors="replace")
        except (KeyError, TypeError):  # TypeError: what cannot be hashed
            unknown = next(token for token in listed if type(token) is not int or token not in self._bytes)
        raise InvalidRequest(f"there is no token {short_repr(unknown)}; ids are from 0 to {self.size - 1}")

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token. An id without an entry (in a padded vocabulary) has the bytes of U+FFFD."""
        return self._bytes.get(token, _REPLACEMENT)

    def is_special(self, token: int) -> bool:
        """Whether the token is a control token."""
        return token in self._special_ids

    def special_id(self, name: str) -> int:
        """The id of a control token.

        Raises:
            InvalidRequest: the tokenizer has no such token.
        """
        try:
            return self.special[name]
        except KeyError:
            raise InvalidRequest(f"no control token {name!r}; there are {', '.join(self.special)}") from None


def _check_vocabulary(ranks: Mapping[bytes, int], special: Mapping[str, int], added: Sequence[AddedWord]) -> None:
    missing = [value for value in range(256) if bytes([value]) not in ranks]
    if missing:
        raise TokenizerError(f"no token for the byte 0x{missing[0]:02x} ({len(missing)} of 256 missing)")
    absent = [name for name in CONTROL_TOKENS if name not in special]
    if absent:
        raise TokenizerError(f"no control token {absent[0]}; this is not gpt-oss's tokenizer")
    ids = [*ranks.values(), *special.values(), *(word.token for word in added)]
    if len(set(ids)) != len(ids):
        raise TokenizerError("two tokens have the same id")
    # tiktoken stores ids in 32 bits and aborts on larger ones.
    if min(ids) < 0 or max(ids) >= 2**31:
        raise TokenizerError(f"token id {max(ids, key=abs)} is out of range (0 to {2**31 - 1})")


def _parse_tokenizer_json(content: Any) -> tuple[dict[bytes, int], dict[str, int], str, list[AddedWord]]:
    """The ranks, control tokens, pattern and added words of a parsed tokenizer.json."""
    model = content.get("model") if isinstance(content, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict):
        raise TokenizerError("model.vocab is missing; a byte-level BPE vocabulary is needed")
    added = content.get("added_tokens")
    if not isinstance(added, list) or not all(isinstance(entry, dict) for entry in added):
        raise TokenizerError("added_tokens is missing; harmony's control tokens stand there")
    names = {_text(entry, "content"): _id(entry.get("id"), entry.get("content")) for entry in added}
    words = [_added_word(entry) for entry in added if not _is_control(entry)]
    special = {name: token for name, token in names.items() if name not in {word.text for word in words}}
    byte_of = _byte_level_alphabet()
    ranks: dict[bytes, int] = {}
    for piece, token in vocabulary.items():
        if piece in names:
            continue
        try:
            # Byte-level BPE writes each byte as one printable character.
            ranks[piece.translate(byte_of).encode("latin-1")] = _id(token, piece)
        except UnicodeEncodeError:
            raise TokenizerError(
                f"model.vocab entry {short_repr(piece)} is not in the byte-level alphabet"
            ) from None
    return ranks, special, _split_pattern(content.get("pre_tokenizer")), words


def _is_control(entry: dict[str, Any]) -> bool:
    return entry.get("special") is not False or _CONTROL_SHAPE.fullmatch(entry["content"]) is not None


def _added_word(entry: dict[str, Any]) -> AddedWord:
    flags = {name: entry.get(name) is True for name in ("lstrip", "rstrip", "single_word")}
    return AddedWord(text=entry["content"], token=entry["id"], **flags)


def largest_id(content: Any) -> int:
    """The largest token id in a parsed tokenizer.json, as far as it has ids; −1 if it has none."""
    if not isinstance(content, dict):
        return -1
    model, added = content.get("model"), content.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    ids += [entry.get("id") for entry in added if isinstance(entry, dict)] if isinstance(added, list) else []
    return max((token for token in ids if type(token) is int), default=-1)


def _id(value: Any, name: Any) -> int:
    if type(value) is not int:
        raise TokenizerError(f"the id of {short_repr(name)} is {short_repr(value)}, not an integer")
    return value


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value or not value.isprintable():
        raise TokenizerError(f"an added token has {key} {short_repr(value)}; printable text is needed")
    return value


def _split_pattern(pre_tokenizer: Any) -> str:
    """The regular expression of the Split step."""
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer]) if isinstance(pre_tokenizer, dict) else []
    for step in steps if isinstance(steps, list) else []:
        pattern = step.get("pattern") if isinstance(step, dict) else None
        regex = pattern.get("Regex") if isinstance(pattern, dict) else None
        if isinstance(regex, str) and len(regex) <= _MAX_PATTERN:
            return regex
    raise TokenizerError("pre_tokenizer has no Split step with a Regex")


def _byte_level_alphabet() -> dict[int, int]:
    """GPT-2's printable characters for the 256 bytes: code point of the character → byte.

    Printable Latin-1 represents itself; the code points from 256 on represent the other bytes, in order.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in printable]
    alphabet = {value: value for value in printable}
    alphabet.update({256 + position: value for position, value in enumerate(others)})
    # Any other Latin-1 character is invalid: mapped to a code point that Latin-1 cannot encode.
    alphabet.update(dict.fromkeys(others, 65535))
    return alphabet
