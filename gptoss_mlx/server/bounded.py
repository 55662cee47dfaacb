"""A dictionary that forgets the least recently used entries, so that it stays within bounds."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Bounded"]

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Bounded(Generic[Key, Value]):
    """Any number of threads may use it.

    Args:
        count: the most entries.
        size: the most that all entries together may have, in the unit of :meth:`put`.

    Example:
        >>> kept = Bounded[str, int](count=2, size=100)
        >>> for name in "abc":
        ...     kept.put(name, ord(name), 1)
        >>> kept.get("a"), kept.get("c"), len(kept)
        (None, 99, 2)
        >>> kept.remove("c"), kept.remove("c")
        (True, False)
    """

    def __init__(self, *, count: int, size: int) -> None:
        self._count, self._size = count, size
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._used = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Value | None:
        """An entry, which is then the most recently used."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: Key, value: Value, size: int) -> None:
        """Adds or replaces an entry. One that is larger than all may be together is not kept."""
        with self._lock:
            self._remove(key)
            if size > self._size:
                return
            self._entries[key] = (value, size)
            self._used += size
            while len(self._entries) > self._count or self._used > self._size:
                self._remove(next(iter(self._entries)))

    def remove(self, key: Key) -> bool:
        """Removes an entry. Returns whether there was one."""
        with self._lock:
            return self._remove(key)

    def _remove(self, key: Key) -> bool:
        if key not in self._entries:
            return False
        self._used -= self._entries.pop(key)[1]
        return True
