"""From Ctrl-C to the prompt, with the demo model, during prefill and during decode; the promise is 200 ms.

python tests/benchmarks/cli_interrupt.py [ROUNDS]

Eight rounds on two hyperthreads of an x86-64 machine, 2026-11-21: prefill 129 ms in the median, 142 ms at the
slowest; decode 138 and 146 ms.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.cli.pty_session import Person


def seconds(person: Person, question: str, sign: str, pause: float) -> float:
    """Ask, wait for the sign of life, press Ctrl-C, wait for the prompt."""
    person.send(f"\x1b[200~{question}\x1b[201~")
    person.look(0.5)
    person.send("\r")
    began = time.monotonic()
    while sign not in person.text().rpartition("›")[2] and time.monotonic() - began < 10:
        person.look(0.01)
    person.look(pause)
    begun = person.text().count("interrupted;")
    began = time.perf_counter()
    person.send("\x03")
    while person.text().count("interrupted;") == begun:
        person.look(0.005)
    person.wait_for_prompt()
    taken = time.perf_counter() - began
    person.look(2.1)  # two within two seconds would leave
    return taken


def main() -> None:
    """Measure both."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with tempfile.TemporaryDirectory() as home:
        person = Person(
            [sys.executable, "-m", "gptoss_mlx.cli", "chat", "-m", "demo", "-e", "high"], Path(home), 100, 30
        )
        person.wait_for_prompt()
        long_prompt = "what is one and two and three? " * 600
        for name, question, sign in (
            ("prefill", long_prompt, "reading"),
            ("decode", "What is 47 + 38?", "Ctrl-T shows"),
        ):
            times = []
            for number in range(rounds):
                times.append(seconds(person, question, sign, 0.02 * number))
                person.enter("/undo")
                person.look(0.3)
            print(f"{name}: median {statistics.median(times) * 1e3:.0f} ms, slowest {max(times) * 1e3:.0f} ms")
        person.leave()


if __name__ == "__main__":
    main()
