"""No text forges a message. The long run is ``tests/benchmarks/trust_text.py``."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings

from tests.hostile.texts import check, conversations


@settings(
    max_examples=2000, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
@given(conversations())
def test_the_number_of_control_tokens_depends_on_the_structure_alone(made: object) -> None:
    check(made)  # type: ignore[arg-type]
