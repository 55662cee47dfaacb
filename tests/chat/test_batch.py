"""Many questions at once, from threads and from asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from gptoss_mlx import AsyncGptOss, BatchReply, GptOss, SamplingParams

Batch = Callable[..., Iterator[BatchReply]]
QUESTIONS: list[Any] = [
    "Who are you?",
    "What is 12 + 30?",
    [{"role": "user", "content": "Say Oslo"}],
    "How many layers does gpt-oss-20b have?",
    "What is 9 - 4?",
    "Hi",
    "Say Rome",
]
BRIEF = SamplingParams(temperature=0, max_tokens=16)


def from_threads(model: GptOss, questions: list[Any], **options: Any) -> Iterator[BatchReply]:
    return model.batch(questions, **options)


def from_tasks(model: GptOss, questions: list[Any], **options: Any) -> Iterator[BatchReply]:
    """The async form, read as an iterator."""
    found: AsyncIterator[BatchReply] = AsyncGptOss(model).batch(questions, **options)
    with asyncio.Runner() as runner:
        try:
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    yield runner.run(anext(found))  # type: ignore[arg-type]
        finally:
            runner.run(found.aclose())  # type: ignore[attr-defined]


@pytest.fixture(params=[from_threads, from_tasks])
def batch(request: pytest.FixtureRequest) -> Batch:
    made: Batch = request.param
    return made


def test_each_answer_is_that_of_the_question_alone(demo: GptOss, batch: Batch) -> None:
    found = list(batch(demo, QUESTIONS, effort="low", sampling=BRIEF))
    assert [answer.done for answer in found] == list(range(1, len(QUESTIONS) + 1))
    assert {answer.total for answer in found} == {len(QUESTIONS)}
    said = {answer.index: answer.reply.text for answer in found if answer.reply is not None}
    for index, question in enumerate(QUESTIONS):
        alone = {"prompt": question} if isinstance(question, str) else {"messages": question}
        assert said[index] == demo.ask(**alone, effort="low", sampling=BRIEF).text


def test_a_question_that_cannot_be_answered_has_an_error_and_the_others_have_answers(
    demo: GptOss, batch: Batch
) -> None:
    asked = ["Hi", [{"role": "user", "content": 5}], "Who are you?"]
    found = {answer.index: answer for answer in batch(demo, asked, effort="low", sampling=BRIEF)}
    assert found[1].reply is None
    assert "content" in str(found[1].error)
    assert all(found[index].reply is not None and found[index].error is None for index in (0, 2))


def test_leaving_the_loop_stops_what_runs(demo: GptOss, batch: Batch) -> None:
    refused: Any = [{"role": "user", "content": 5}]
    endless = SamplingParams(logit_bias=dict.fromkeys(demo.stop_tokens, -100))
    answers = batch(demo, [*["Tell me everything."] * 4, refused], sampling=endless)
    assert next(answers).index == 4
    answers.close()  # type: ignore[attr-defined]
    # Would wait without end for what still ran.
    assert demo.ask("Hi", effort="low", sampling=BRIEF).usage.completion_tokens > 0


def test_no_questions_have_no_answers(demo: GptOss, batch: Batch) -> None:
    assert list(batch(demo, [])) == []
