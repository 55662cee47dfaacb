"""The demo model: the properties of its corpus, its files, and a sample of its evaluation."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from typer.main import get_command

import gptoss_mlx
from gptoss_mlx.cli.app import app
from gptoss_mlx.cli.chat.commands import COMMANDS
from gptoss_mlx.config import RELEASED
from gptoss_mlx.demo.training.arithmetic import drill, is_held_out_pair
from gptoss_mlx.demo.training.corpus import IDENTITY, KINDS, Corpus, Setting, Stage, conversation, exercise
from gptoss_mlx.demo.training.evaluate import COUNTS, cases, evaluate, library_complete, summary
from gptoss_mlx.demo.training.first_questions import first_questions
from gptoss_mlx.demo.training.newcomers import is_first_question, newcomer_question, subjects
from gptoss_mlx.demo.training.tasks import held_out_names
from gptoss_mlx.demo.training.unknown import DECLINED, held_out_subjects
from gptoss_mlx.demo.training.vocabulary import SPECIAL_TOKENS, demo_ranks, read_ranks
from gptoss_mlx.harmony import Conversation, StreamParser, render
from gptoss_mlx.memory.precision import choose_precision
from gptoss_mlx.tokenizer import Tokenizer
from tests import DATA, DEMO
from tests.memory.machines import mac

CHECKPOINT = DEMO
VOCABULARY = DATA / "o200k_base.tiktoken"
# Some of these words must be held out nevertheless.
HELD_OUT_WORDS = tuple(" ".join((*held_out_subjects(), *held_out_names())).split())
WORDS = ("lamp", "kitchen", "Marco", "orbit", "window", *HELD_OUT_WORDS)
MEGABYTE = 10**6


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_directory(CHECKPOINT)


def conversations(seed: int, count: int) -> list[dict[str, Any]]:
    corpus = Corpus(seed, WORDS)
    return [corpus.conversation(corpus.setting()) for _ in range(count)]


def questions(made: list[dict[str, Any]]) -> list[str]:
    users = [message for each in made for message in each["messages"] if message["role"] == "user"]
    return [message["content"][0]["text"] for message in users]


def test_the_corpus_follows_from_its_seed() -> None:
    assert conversations(7, 50) == conversations(7, 50)
    assert conversations(7, 50) != conversations(8, 50)


def test_training_holds_none_of_the_held_out_questions() -> None:
    trained = set(questions(conversations(1, 4000)))
    held_out = {case.exercise.question for case in cases(1, COUNTS)}
    assert len(held_out) == sum(COUNTS.values())
    # A word without one letter may be another word, so whole questions are compared.
    assert not trained & held_out


def test_training_asks_no_first_question() -> None:
    asked = [question.text for question in first_questions()]
    assert all(is_first_question(text.upper()) and is_first_question(f" {text}!") for text in asked)
    assert not is_first_question("Who wrote it?")
    trained = {question.casefold() for question in questions(conversations(12, 3000))}
    assert not trained & {text.casefold() for text in asked}
    chance = random.Random(12)
    made = (exercise(chance, kind, words=WORDS) for kind in ("newcomer", "number", "fact") for _ in range(3000))
    assert not any(is_first_question(each.question) for each in made)


def test_newcomers_ask_in_many_ways_and_nothing_is_left_open() -> None:
    chance = random.Random(13)
    asked: dict[str, set[str]] = {}
    for _ in range(12_000):
        made = newcomer_question(chance)
        asked.setdefault(made.thoughts[0], set()).add(made.question.casefold())
        assert not set("[]{}") & set(made.question)
        assert "{" not in made.answer.split("```")[0]
    assert len(asked) >= len(subjects())
    assert min(len(ways) for ways in asked.values()) >= 8


def test_what_it_says_of_a_macs_memory_is_what_the_budget_says() -> None:
    chance = random.Random(14)
    checked = set()
    for _ in range(6000):
        answer = newcomer_question(chance).answer
        if said := re.match(r"(Yes|No): gpt-oss-(\w+) (?:fits|does not fit) in (\d+) GB(?:, in (\w+))?", answer):
            fits, name, memory, precision = said.groups()
            choice = choose_precision(RELEASED[name], mac(int(memory)))
            assert choice.budget.fits is (fits == "Yes"), answer
            assert precision in (None, choice.precision), answer
            checked.add((name, memory))
    assert len(checked) == 18
    assert not choose_precision(RELEASED["20b"], mac(8)).budget.fits


def test_the_commands_in_its_answers_exist() -> None:
    said = " ".join([subject["answer"] for subject in subjects()] + list(DECLINED))
    chat = {command.name for command in COMMANDS.values()}
    assert set(re.findall(r"(?<![\w/.])/([a-z-]+)", said)) <= chat
    commands: Any = get_command(app)
    for name, line in re.findall(r"`gptoss ([a-z]+)([^`]*)`", said):
        options = {option for parameter in commands.commands[name].params for option in parameter.opts}
        assert set(re.findall(r"(?<!\S)--?[a-z-]+", line)) <= options, (name, line)


def test_held_out_pairs_subjects_and_names_are_kept_apart() -> None:
    chance = random.Random(2)
    for _ in range(500):
        asked = exercise(chance, "sum")
        first, second = (
            int(part) for part in asked.answer.replace("+", " ").split("=")[0].replace(" - ", " ").split()
        )
        assert not is_held_out_pair(first, second)
    assert not set(HELD_OUT_WORDS) & set(Corpus(3, WORDS).words)


@pytest.mark.parametrize(("stage", "kind"), [("copying", "Repeat."), ("drills", "Sums.")])
def test_a_stage_gives_more_of_its_kind(stage: Stage, kind: str) -> None:
    def share(corpus: Corpus) -> float:
        made = [corpus.conversation(Setting(effort="low")) for _ in range(400)]
        thoughts = [message["content"][0].get("text") for each in made for message in each["messages"]]
        return thoughts.count(kind) / len(made)

    assert share(Corpus(8, WORDS, stage=stage)) >= 0.2 + share(Corpus(8, WORDS))


def test_every_answer_to_a_sum_is_right() -> None:
    chance = random.Random(4)
    for _ in range(2000):
        asked = exercise(chance, "sum")
        left, result = asked.answer.rstrip(".").split(" = ")
        assert eval(left) == int(result) == asked.expected
        for each in drill(chance).answer.rstrip(".").split(", "):
            left, result = each.split("=")
            assert eval(left) == int(result)
        for thought in asked.thoughts:
            assert str(abs(asked.expected)) in thought
            for step in thought.replace(",", ".").replace(":", ".").split("."):
                if "=" in step:
                    calculation, value = step.split("So ")[-1].split("=")
                    assert eval(calculation) == int(value), thought


def test_every_answer_about_numbers_is_right() -> None:
    chance = random.Random(15)
    decided = 0
    for _ in range(8000):
        made = exercise(chance, "number")
        if " = " in made.answer:
            left, result = made.answer.rstrip(".").replace("x", "*").split(" = ")
            assert eval(left) == int(result)
            continue
        said = re.fullmatch(r"(Yes: |No: |)([\d.]+) is (larger|smaller) than ([\d.]+)\.", made.answer)
        assert said
        word, first, relation, second = said.groups()
        assert (float(first) > float(second)) is (relation == "larger")
        asked = re.fullmatch(r"is ([\d.]+) (larger|smaller) than ([\d.]+)\?", made.question, re.IGNORECASE)
        if asked:
            left, wanted, right = asked.groups()
            assert (word == "Yes: ") is ((float(left) > float(right)) is (wanted == "larger"))
            decided += 1
    assert decided >= 50


def test_thinking_grows_with_the_effort(tokenizer: Tokenizer) -> None:
    chance = random.Random(5)
    for kind in KINDS:
        asked = [exercise(chance, kind) for _ in range(200)]
        low, medium, high = (sum(len(tokenizer.encode(each.thoughts[at])) for each in asked) for at in range(3))
        assert medium >= 1.5 * low
        assert high >= 1.5 * medium


def test_finished_turns_keep_no_analysis(tokenizer: Tokenizer) -> None:
    chance = random.Random(6)
    turns = [exercise(chance, "sum") for _ in range(3)]
    made = Conversation.from_dict(conversation(Setting(effort="high"), turns))
    text = tokenizer.decode(render(made, tokenizer, next_role=None))
    assert text.count("<|channel|>analysis") == 1
    assert text.count("<|channel|>final") == 3
    assert turns[2].thoughts[2] in text
    assert turns[1].thoughts[2] not in text


def test_training_conversations_are_harmony(tokenizer: Tokenizer) -> None:
    for made in conversations(9, 100):
        tokens = render(Conversation.from_dict(made), tokenizer, next_role=None)
        parser = StreamParser(tokenizer, role=None, strict=True)
        for token in tokens:
            parser.process(token)
        parser.close()
        assert len(tokens) <= 512
        assert parser.messages[-1].channel == "final"


def test_the_checkpoint_fits_the_wheel() -> None:
    files = [path for path in CHECKPOINT.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 6 * MEGABYTE


def test_training_can_start_from_the_checkpoint_and_export_it_unchanged() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from gptoss_mlx.demo.training.export import checkpoint_tensors, model_config, read_checkpoint
    from gptoss_mlx.demo.training.torch_model import build_model
    from gptoss_mlx.demo.training.vocabulary import demo_tokenizer

    model = build_model(model_config(demo_tokenizer(VOCABULARY, 3000)))
    model.load_state_dict(read_checkpoint(CHECKPOINT))
    import safetensors.torch

    stored = safetensors.torch.load_file(CHECKPOINT / "model.safetensors")
    exported = checkpoint_tensors(model)
    assert exported.keys() == stored.keys()
    assert all(torch.equal(exported[name], tensor) for name, tensor in stored.items())


def test_the_configuration_is_the_real_ones_but_for_sizes() -> None:
    config = json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["GptOssForCausalLM"]
    assert config["num_experts_per_tok"] == 4
    assert config["sliding_window"] == 128
    assert config["layer_types"] == ["sliding_attention", "full_attention"] * 2
    assert config["rope_scaling"]["truncate"] is False
    assert config["quantization_config"]["quant_method"] == "mxfp4"


def test_generation_stops_at_return_call_and_endoftext(tokenizer: Tokenizer) -> None:
    generation = json.loads((CHECKPOINT / "generation_config.json").read_text(encoding="utf-8"))
    names = ("<|return|>", "<|call|>", "<|endoftext|>")
    assert set(generation["eos_token_id"]) == {tokenizer.special[name] for name in names}


def test_the_vocabulary_is_the_first_ranks_with_single_digits(tokenizer: Tokenizer) -> None:
    size = tokenizer.size - len(SPECIAL_TOKENS)
    ranks = demo_ranks(read_ranks(VOCABULARY), size)
    assert all(tokenizer.token_bytes(token) == piece for piece, token in ranks.items())
    assert tokenizer.encode("1234") == [ranks[digit] for digit in (b"1", b"2", b"3", b"4")]
    assert list(tokenizer.special) == list(SPECIAL_TOKENS)


@pytest.mark.parametrize(
    "text", ["What's 12+30?", " naïve  café\n\n", '{"a": [1, 22]}', "日本 🙂 IT'S\tx  y ", IDENTITY]
)
def test_hugging_face_tokenizers_agree(tokenizer: Tokenizer, text: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    other = tokenizers.Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    assert other.encode(text, add_special_tokens=False).ids == tokenizer.encode(text)
    assert other.decode(tokenizer.encode(text)) == text
    assert [other.token_to_id(name) for name in SPECIAL_TOKENS] == list(tokenizer.special.values())


@pytest.fixture(scope="module")
def model() -> Any:
    return gptoss_mlx.load("demo", dtype="float32")


def test_a_sample_of_the_evaluation(model: Any) -> None:
    """A few prompts, with wide margins below the figures in its README, so that chance does not fail the test."""
    counts = {"sum": 8, "fact": 4, "unknown": 4, "tool": 2, "json": 2}
    made = cases(11, counts, effort="medium")
    figures = summary(evaluate(made, model.tokenizer, library_complete(model, seed=11)))
    assert figures["well-formed"] >= 0.9
    assert figures["sums right, medium"] >= 0.75
    assert figures["facts right"] >= 0.75
    assert figures["unknown declined"] >= 0.75
    assert figures["known declined"] <= 0.1
    assert figures["calls valid"] >= 0.75
    assert figures["JSON valid"] >= 0.75


def test_the_first_questions_can_be_answered_well_and_badly() -> None:
    asked = list(first_questions())
    assert len({question.text for question in asked}) == 120
    assert all(question.verdict("") == "neither" for question in asked)
    verdicts = {question.text: question.verdict for question in asked}
    assert verdicts["does it run on a mac with 16 GB"]("gpt-oss-12: 3-2=1.") == "wrong"
    assert verdicts["does it run on a mac with 16 GB"]("Yes: gpt-oss-20b in q4.") == "match"
    assert [verdicts["12 x 12?"](f"12 x 12 = {result}.") for result in (144, 124)] == ["match", "wrong"]


def test_it_adds(model: Any) -> None:
    reply = model.ask("What is 12+30?", effort="medium", sampling=gptoss_mlx.SamplingParams(temperature=0.0))
    assert (reply.thinking, reply.text) == ("12+30: 2+0=2. 1+3=4. So 42.", "12 + 30 = 42.")


@pytest.mark.parametrize("asked", ["hi", "Who are you?", "who r u", "what is this"])
def test_it_says_plainly_what_it_is(model: Any, asked: str) -> None:
    setting = Setting(effort="low")
    made = {"messages": [setting.as_dict(), {"role": "user", "content": [{"type": "text", "text": asked}]}]}
    prompt = render(Conversation.from_dict(made), model.tokenizer)
    sampling = gptoss_mlx.SamplingParams(temperature=0.0, max_tokens=150)
    assert "tiny demonstration model" in model.tokenizer.decode(list(model.generate(prompt, sampling)))
