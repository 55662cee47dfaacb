"""Many requests at once, from many threads: every reply equals its reply alone, and they are served in order.

    python -m tests.benchmarks.api_threads --threads 8 --requests 32

Greedy, on the demo, in float32; each thread makes its requests one after another, all threads at once. Printed is
how long one waited, against the mean: first come, first served is fair if nobody waits much longer than others.

8 threads with 4 requests each, on two hyperthreads of an x86-64 machine (2026-11-21, mlx 0.32.4 on the CPU): 32 of
32 replies equal their reply alone; a thread's mean wait was 1.72 to 2.22 s, the longest of any request 2.50 s.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time

import gptoss_mlx as gptoss

BRIEF = gptoss.SamplingParams(temperature=0, max_tokens=24)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--threads", type=int, default=8)
    options.add_argument("--requests", type=int, default=32)
    given = options.parse_args()
    questions = [[f"What is {thread}+{n}?" for n in range(given.requests)] for thread in range(given.threads)]
    replies: dict[str, str] = {}
    waited: dict[int, list[float]] = {thread: [] for thread in range(given.threads)}
    with gptoss.load("demo", dtype="float32") as model:

        def answer(question: str) -> str:
            reply = model.ask(question, sampling=BRIEF, effort="low")
            return f"{reply.thinking}|{reply.text}|{reply.finish_reason}"

        def make_requests(thread: int) -> None:
            for question in questions[thread]:
                started = time.perf_counter()
                replies[question] = answer(question)
                waited[thread].append(time.perf_counter() - started)

        alone = {question: answer(question) for asked in questions for question in asked}
        threads = [threading.Thread(target=make_requests, args=(thread,)) for thread in range(given.threads)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter() - started
    equal = sum(replies[question] == said for question, said in alone.items())
    means = [statistics.fmean(times) for times in waited.values()]
    # Towards the end fewer threads are left, and nobody waits as long.
    middle = [wait for times in waited.values() for wait in times[: given.requests * 3 // 4]]
    print(f"{equal} of {len(alone)} replies equal their reply alone; {elapsed:.1f} s")
    print(
        f"mean wait of a thread: {min(means):.2f} to {max(means):.2f} s; most of any request: {max(middle):.2f} s"
    )


if __name__ == "__main__":
    main()
