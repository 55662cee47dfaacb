"""What a model writes wrong is no error of the server, and reaches no client as it is."""

from __future__ import annotations

from tests.server.malformed import replayed


def test_no_malformed_turn_is_an_error_or_shows_a_control_token() -> None:
    outcome = replayed(150)
    assert outcome.wrong == []
    assert outcome.recovered["all"] >= 0.9 * outcome.turns
