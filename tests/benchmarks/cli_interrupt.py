"""From Ctrl-C to the prompt of ``gptoss chat``, during the demo model's prefill and decode, and to the end of
``gptoss run``; the promise is 200 ms.

python -m tests.benchmarks.cli_interrupt [ROUNDS]

Eight rounds on two hyperthreads of an x86-64 machine, 2026-11-21: prefill 129 ms in the median, 142 ms at the
slowest; decode 138 and 146 ms. Two rounds beside a load of 11, 2026-11-26: prefill 146 ms, decode 175 ms, run
16 ms.
"""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.cli.pty_session import Person


def seconds(person: Person, question: str, sign: str, pause: float) -> float | None:
    """Ask, wait for the sign of life, press Ctrl-C, wait for the prompt; None: the answer had ended before."""
    person.send(f"\x1b[200~{question}\x1b[201~")
    person.look(0.5)
    person.send("\r")
    began = time.monotonic()
    while sign not in person.text().rpartition("›")[2] and time.monotonic() - began < 10:
        person.look(0.01)
    person.look(pause)
    interrupted = person.text().count("interrupted;")
    began = time.perf_counter()
    person.send("\x03")
    while person.text().count("interrupted;") == interrupted:
        if time.perf_counter() - began > 10:
            return None
        person.look(0.005)
    person.wait_for_prompt()
    taken = time.perf_counter() - began
    person.look(2.1)  # two within two seconds would leave
    return taken


def run_seconds() -> float:
    """Start an answer of ``gptoss run``, interrupt it once it thinks, wait for the end of the process."""
    command = [sys.executable, "-m", "gptoss_mlx.cli", "run", "-m", "demo", "-e", "high", "What is 47 + 38?"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        process.stderr.read(4)
        began = time.perf_counter()
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        process.wait()
    return time.perf_counter() - began


def main() -> None:
    """Measure all three."""
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
                taken = seconds(person, question, sign, 0.02 * number)
                times += [] if taken is None else [taken]
                person.enter("/undo")
                person.look(0.3)
            print(f"{name}: median {statistics.median(times) * 1e3:.0f} ms, slowest {max(times) * 1e3:.0f} ms")
        person.leave()
    times = [run_seconds() for _ in range(rounds)]
    print(f"run: median {statistics.median(times) * 1e3:.0f} ms, slowest {max(times) * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
