"""What the server remembers stays within its bounds."""

from __future__ import annotations

from gptoss_mlx.server.bounded import Bounded


def test_the_oldest_entries_leave() -> None:
    kept = Bounded[int, str](count=3, size=100)
    for number in range(5):
        kept.put(number, str(number), 1)
    assert [kept.get(number) for number in range(5)] == [None, None, "2", "3", "4"]
    assert kept.get(2) == "2"  # now the most recently used
    kept.put(5, "5", 98)
    assert [number for number in range(6) if kept.get(number)] == [2, 4, 5]
    kept.put(6, "6", 101)
    assert kept.get(6) is None
    kept.put(2, "two", 2)
    assert (kept.get(2), kept.get(5), len(kept)) == ("two", "5", 2)
    assert (kept.remove(5), kept.remove(5)) == (True, False)
    kept.put(7, "7", 98)
    assert (kept.get(2), kept.get(7)) == ("two", "7")
