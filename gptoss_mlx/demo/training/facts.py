"""The facts about gpt-oss that the demo model knows, each with one answer and many wordings.

A fact is asked for in one of four ways: as a count, a property, a topic, or in sentences of its own.
Knows nothing of transcripts.
"""

from __future__ import annotations

from dataclasses import dataclass

from .wordings import COUNT, MODELS, PROPERTY, TOPIC

__all__ = ["FACTS", "Fact"]


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A fact. Its answer is fixed, because random alternatives cost accuracy at temperature 1."""

    key: str
    templates: tuple[str, ...]
    names: tuple[str, ...] = ("",)
    """The value of ``{x}``."""
    answers: tuple[tuple[str, str], ...]
    """The model in question (a key of MODELS) → the answer."""
    topic: str
    """The subject as the analysis names it."""


def _counted(key: str, names: tuple[str, ...], small: str, large: str, both: str) -> Fact:
    answers = (("20b", small), ("120b", large), ("", both))
    return Fact(key=key, templates=COUNT, names=names, answers=answers, topic=names[0])


def _property(key: str, names: tuple[str, ...], small: str, large: str, both: str) -> Fact:
    answers = (("20b", small), ("120b", large), ("", both))
    return Fact(key=key, templates=PROPERTY, names=names, answers=answers, topic=names[0])


def _same(key: str, templates: tuple[str, ...], names: tuple[str, ...], answer: str) -> Fact:
    """A fact that is the same for both models."""
    answers = tuple((model, answer) for model in MODELS)
    return Fact(key=key, templates=templates, names=names, answers=answers, topic=names[0])


def _topic(key: str, names: tuple[str, ...], answer: str, more: tuple[str, ...] = ()) -> Fact:
    return Fact(key=key, templates=TOPIC + more, names=names, answers=(("", answer),), topic=names[0])


def _free(key: str, topic: str, sentences: tuple[str, ...], answer: str) -> Fact:
    return Fact(key=key, templates=sentences, answers=(("", answer),), topic=topic)


_NUMBERS = (
    _counted(
        "layers",
        ("layers", "transformer layers", "blocks", "hidden layers"),
        "gpt-oss-20b has 24 layers.",
        "gpt-oss-120b has 36 layers.",
        "gpt-oss-20b has 24 layers, gpt-oss-120b has 36.",
    ),
    _counted(
        "experts",
        ("experts", "experts per layer", "MoE experts"),
        "gpt-oss-20b has 32 experts in each layer.",
        "gpt-oss-120b has 128 experts in each layer.",
        "gpt-oss-20b has 32 experts in each layer, gpt-oss-120b has 128.",
    ),
    _counted(
        "parameters",
        ("parameters", "weights", "params", "total parameters"),
        "gpt-oss-20b has 20,914,757,184 parameters.",
        "gpt-oss-120b has 116,829,156,672 parameters.",
        "gpt-oss-20b has 20.9 billion parameters, gpt-oss-120b has 116.8 billion.",
    ),
    _counted(
        "active parameters",
        ("active parameters", "active params", "parameters active per token"),
        "gpt-oss-20b uses 3.61 billion parameters per token.",
        "gpt-oss-120b uses 5.13 billion parameters per token.",
        "gpt-oss-20b uses 3.61 billion parameters per token, gpt-oss-120b 5.13 billion.",
    ),
    _same(
        "active experts",
        COUNT,
        ("active experts", "experts active per token", "experts per token"),
        "4 experts are active for each token, in both models.",
    ),
    _same(
        "query heads",
        COUNT,
        ("attention heads", "heads", "query heads"),
        "Both models have 64 query heads and 8 key-value heads of 64 dimensions.",
    ),
    _same(
        "key-value heads",
        COUNT,
        ("key-value heads", "KV heads", "key value heads"),
        "Both models have 8 key-value heads.",
    ),
)

_PROPERTIES = (
    _property(
        "file size",
        ("file size", "size of the files", "download size", "size on disk"),
        "The weights of gpt-oss-20b take 12.8 GiB.",
        "The weights of gpt-oss-120b take 60.8 GiB.",
        "The weights of gpt-oss-20b take 12.8 GiB, those of gpt-oss-120b 60.8 GiB.",
    ),
    Fact(
        key="memory",
        templates=(
            "How much memory does {m} need?",
            "How much RAM does {m} need?",
            "How much memory do I need for {m}?",
            "How much RAM do I need to run {m}?",
            "What memory does {m} need?",
            "Memory for {m}?",
            "{m} memory?",
            "{m} RAM?",
            "How much memory for {m}?",
            "What are the memory requirements of {m}?",
            "What is the memory need of {m}?",
            "Tell me the memory needed for {m}.",
            "Will {m} fit in memory?",
            "Do you know how much memory {m} takes?",
            "How many gigabytes of memory does {m} take?",
            "How many GB does {m} need?",
            "How many gigabytes of RAM does {m} need?",
            "How much memory does {m} take?",
            "Does {m} fit in my memory?",
        ),
        answers=(
            ("20b", "The weights of gpt-oss-20b take 12.8 GiB, so a machine with 16 GB of memory can run it."),
            (
                "120b",
                "The weights of gpt-oss-120b take 60.8 GiB, so it needs a machine with 80 GB of memory or more.",
            ),
            ("", "gpt-oss-20b needs a machine with 16 GB of memory, gpt-oss-120b one with 80 GB or more."),
        ),
        topic="memory",
    ),
    _same(
        "context",
        PROPERTY,
        ("context length", "context", "context size", "maximum context", "max context length"),
        "The context is 131,072 tokens, in both models.",
    ),
    _same(
        "window",
        PROPERTY,
        ("sliding window", "window", "attention window", "window size"),
        "The sliding window is 128 tokens: every second layer sees only those.",
    ),
    _same(
        "vocabulary",
        PROPERTY,
        ("vocabulary", "vocabulary size", "vocab size", "vocab"),
        "The vocabulary has 201,088 tokens.",
    ),
    _same(
        "hidden size",
        PROPERTY,
        ("hidden size", "hidden dimension", "embedding size", "model width"),
        "The hidden size is 2880, in both models.",
    ),
    _same(
        "head dimension",
        PROPERTY,
        ("head dimension", "head size", "head dim"),
        "Each attention head has 64 dimensions.",
    ),
    _same(
        "licence",
        PROPERTY,
        ("licence", "license", "software license"),
        "gpt-oss is under the Apache 2.0 licence.",
    ),
    _same(
        "rope",
        PROPERTY,
        ("rope theta", "RoPE base", "position encoding", "positional encoding"),
        "gpt-oss uses RoPE with theta 150,000, stretched by YaRN from 4,096 to 131,072 tokens.",
    ),
    _same(
        "activation",
        PROPERTY,
        ("activation", "activation function", "nonlinearity"),
        "The experts use a SwiGLU activation, clamped at 7.",
    ),
    _same(
        "normalisation",
        PROPERTY,
        ("normalization", "normalisation", "norm", "norm layer"),
        "gpt-oss uses RMSNorm with an epsilon of 1e-5.",
    ),
    _same(
        "knowledge cutoff",
        PROPERTY,
        ("knowledge cutoff", "cutoff date", "training cutoff"),
        "The knowledge cutoff of gpt-oss is June 2024.",
    ),
    _same(
        "tokenizer",
        PROPERTY,
        ("tokenizer", "tokeniser", "token encoding", "text encoding"),
        "gpt-oss uses the o200k_harmony tokenizer.",
    ),
)

_TOPICS = (
    _topic(
        "mxfp4",
        ("MXFP4", "mxfp4", "the MXFP4 format", "MXFP4 quantization"),
        "MXFP4 is a 4-bit number format: 32 values share one 8-bit scale. "
        "The experts of gpt-oss are stored in it.",
        (
            "How are the weights of gpt-oss quantized?",
            "Which format are the experts of gpt-oss stored in?",
            "How is gpt-oss quantized?",
            "How are the experts of gpt-oss quantized?",
            "What quantization do the weights of gpt-oss use?",
            "Are the weights of gpt-oss quantized?",
        ),
    ),
    _topic(
        "sinks",
        ("attention sinks", "sinks", "an attention sink", "the sinks in gpt-oss", "a sink"),
        "A sink is one learned logit for each query head. It joins the softmax and adds no value.",
    ),
    _topic(
        "moe",
        ("a mixture of experts", "mixture of experts", "MoE", "the MoE in gpt-oss", "the router"),
        "In a mixture of experts a router picks a few experts for each token: in gpt-oss 4 of them.",
    ),
    _topic(
        "yarn",
        ("YaRN", "yarn", "YaRN scaling", "yarn scaling"),
        "YaRN stretches RoPE to a longer context: in gpt-oss by 32, from 4,096 to 131,072 tokens.",
    ),
    _topic(
        "harmony",
        ("harmony", "the harmony format", "the Harmony response format", "OpenAI harmony"),
        "Harmony is the message format of gpt-oss: roles, channels and special tokens.",
        ("Which message format does gpt-oss use?", "What chat format does gpt-oss use?"),
    ),
    _topic(
        "gpt-oss",
        ("gpt-oss", "gptoss", "gpt oss", "gpt-oss by OpenAI"),
        "gpt-oss is OpenAI's family of open-weight models: gpt-oss-20b and gpt-oss-120b.",
    ),
    _topic(
        "gpt-oss-20b",
        ("gpt-oss-20b", "the 20b", "gpt-oss 20b", "the 20b model"),
        "gpt-oss-20b is the smaller gpt-oss: 24 layers, 32 experts, 20.9 billion parameters.",
    ),
    _topic(
        "gpt-oss-120b",
        ("gpt-oss-120b", "the 120b", "gpt-oss 120b", "the 120b model"),
        "gpt-oss-120b is the larger gpt-oss: 36 layers, 128 experts, 116.8 billion parameters.",
    ),
    _topic(
        "gptoss-mlx",
        ("gptoss-mlx", "this program", "gptoss mlx", "the gptoss command"),
        "gptoss-mlx runs gpt-oss on a Mac, with Apple's MLX.",
    ),
    _topic("mlx", ("MLX", "mlx", "Apple MLX", "Apple's MLX"), "MLX is Apple's array framework for Apple silicon."),
    _topic(
        "analysis channel",
        ("the analysis channel", "analysis channel", "the channel analysis"),
        "The analysis channel holds the model's thinking before it answers.",
    ),
    _topic(
        "commentary channel",
        ("the commentary channel", "commentary channel", "the channel commentary"),
        "The commentary channel holds tool calls and short notes before them.",
    ),
    _topic(
        "final channel",
        ("the final channel", "final channel", "the channel final"),
        "The final channel holds the answer for the user.",
    ),
    _topic(
        "reasoning effort",
        ("reasoning effort", "the reasoning effort", "the effort", "effort levels", "the effort level"),
        "The effort is low, medium or high: it sets how long the model thinks.",
        (
            "Which effort levels does gpt-oss have?",
            "How many effort levels are there?",
            "Which reasoning levels are there?",
            "What reasoning efforts can I choose?",
        ),
    ),
    _topic(
        "channels",
        ("the channels", "channels", "harmony channels", "the channels of harmony"),
        "There are three channels: analysis for thinking, commentary for tool calls, final for the answer.",
        (
            "Which channels does gpt-oss have?",
            "How many channels does gpt-oss have?",
            "How many channels are there?",
            "What channels does harmony have?",
            "Which channels are there?",
            "How many channels does harmony have?",
            "How many channels are in harmony?",
            "What are the three channels?",
        ),
    ),
)

_SENTENCES = (
    _free(
        "maker",
        "who made gpt-oss",
        (
            "Who made gpt-oss?",
            "Who created gpt-oss?",
            "Who built gpt-oss?",
            "Who trained gpt-oss?",
            "Which company made gpt-oss?",
            "Who is behind gpt-oss?",
            "Who developed gpt-oss?",
            "gpt-oss is made by whom?",
            "Where does gpt-oss come from?",
            "Who released gpt-oss?",
            "who wrote gpt-oss",
            "Who is the maker of gpt-oss?",
            "Which company created gpt-oss?",
            "Who published gpt-oss?",
        ),
        "OpenAI made gpt-oss.",
    ),
    _free(
        "release",
        "the release of gpt-oss",
        (
            "When was gpt-oss released?",
            "When did gpt-oss come out?",
            "What is the release date of gpt-oss?",
            "How old is gpt-oss?",
            "When did OpenAI release gpt-oss?",
            "gpt-oss release date?",
            "Since when does gpt-oss exist?",
            "In which year was gpt-oss released?",
            "When was gpt-oss published?",
            "When did OpenAI publish gpt-oss?",
            "When was gpt-oss made?",
            "When did gpt-oss appear?",
            "When did the gpt-oss models come out?",
            "What date was gpt-oss released?",
            "Which year did gpt-oss come out?",
            "Since when is gpt-oss out?",
        ),
        "OpenAI released gpt-oss in August 2025.",
    ),
    _free(
        "download",
        "how to get the real model",
        (
            "How do I get the real model?",
            "How do I download gpt-oss?",
            "How can I run the real gpt-oss?",
            "How do I install the 20b?",
            "How do I get gpt-oss-20b?",
            "Where can I get the real one?",
            "How do I convert gpt-oss-20b?",
            "How do I run gpt-oss-20b on my Mac?",
            "How do I use the real gpt-oss?",
            "What do I type to get the real model?",
            "Which command downloads the 20b?",
            "how to get the real gpt-oss",
            "how to download the model",
            "I want the real model.",
            "How do I chat with the real gpt-oss?",
            "how can i get a better model",
        ),
        "Type `gptoss convert 20b` to download and convert it, then `gptoss chat -m 20b`.",
    ),
    _free(
        "commercial use",
        "the use of gpt-oss",
        (
            "Can I use gpt-oss commercially?",
            "Is gpt-oss open source?",
            "Is gpt-oss free?",
            "May I use gpt-oss at work?",
            "Am I allowed to use gpt-oss in my product?",
            "Is gpt-oss free to use?",
            "Are the weights of gpt-oss open?",
            "Is gpt-oss open weight?",
            "Can I modify gpt-oss?",
            "Is the use of gpt-oss free?",
            "Can I sell a product with gpt-oss?",
            "May I use gpt-oss for my company?",
            "Am I free to change gpt-oss?",
            "Is gpt-oss free for commercial use?",
        ),
        "Yes: the weights of gpt-oss are open, under the Apache 2.0 licence.",
    ),
    _free(
        "images",
        "images in gpt-oss",
        (
            "Can gpt-oss see images?",
            "Does gpt-oss understand pictures?",
            "Is gpt-oss multimodal?",
            "Can gpt-oss read images?",
            "Does gpt-oss support vision?",
            "Can I send a picture to gpt-oss?",
            "Does gpt-oss work with images?",
            "Can gpt-oss hear audio?",
            "Does gpt-oss support images?",
            "Is gpt-oss a multimodal model?",
            "Are the gpt-oss models multimodal?",
            "Does gpt-oss have vision?",
            "Is vision possible with gpt-oss?",
            "Can gpt-oss look at photos?",
            "Can gpt-oss see?",
            "Can gpt-oss draw pictures?",
            "Does gpt-oss support audio?",
            "Is gpt-oss able to read pictures?",
            "What about images in gpt-oss?",
        ),
        "No: gpt-oss reads and writes text only.",
    ),
    _free(
        "tools",
        "tools in gpt-oss",
        (
            "Can gpt-oss call functions?",
            "Does gpt-oss support tools?",
            "Can gpt-oss use tools?",
            "Does gpt-oss do function calling?",
            "How does gpt-oss call tools?",
            "Where does gpt-oss call functions?",
            "Does gpt-oss support tool calls?",
            "Is function calling possible with gpt-oss?",
            "Can I give tools to gpt-oss?",
            "Can gpt-oss call a function?",
            "Can the gpt-oss models call functions?",
            "How does gpt-oss call functions?",
            "Is gpt-oss able to call functions?",
            "Does gpt-oss call tools?",
            "Where does gpt-oss call tools?",
            "On which channel does gpt-oss call functions?",
            "What about tools in gpt-oss?",
            "Does gpt-oss know function calls?",
        ),
        "Yes: gpt-oss calls functions on the commentary channel, with JSON arguments.",
    ),
    _free(
        "difference",
        "the two models",
        (
            "What is the difference between gpt-oss-20b and gpt-oss-120b?",
            "How do the 20b and the 120b differ?",
            "gpt-oss-20b or gpt-oss-120b?",
            "Which gpt-oss models are there?",
            "How many gpt-oss models are there?",
            "What sizes does gpt-oss come in?",
            "Compare the 20b and the 120b.",
            "20b vs 120b?",
            "What models are in the gpt-oss family?",
            "Which sizes of gpt-oss are there?",
            "What sizes are there of gpt-oss?",
            "In which sizes does gpt-oss come?",
            "Which models of gpt-oss are there?",
            "How many models are in the gpt-oss family?",
            "How does the 120b differ from the 20b?",
        ),
        "gpt-oss-20b has 24 layers of 32 experts, gpt-oss-120b has 36 layers of 128 experts.",
    ),
    _free(
        "attention",
        "attention in gpt-oss",
        (
            "What kind of attention does gpt-oss use?",
            "How does attention work in gpt-oss?",
            "Which layers of gpt-oss slide?",
            "Does gpt-oss use sliding window attention?",
            "Which attention does gpt-oss have?",
            "Tell me about the attention of gpt-oss.",
            "Explain the attention in gpt-oss.",
            "What attention pattern has gpt-oss?",
            "How do the layers of gpt-oss attend?",
            "Do the layers of gpt-oss slide?",
            "Which layers of gpt-oss use a sliding window?",
            "Which layers in gpt-oss are sliding?",
            "Which layers of gpt-oss see everything?",
            "How do layers slide in gpt-oss?",
            "What kind of attention has gpt-oss?",
            "How do layers take turns in gpt-oss?",
            "Is the attention of gpt-oss sliding?",
        ),
        "Layers take turns: one sees a sliding window of 128 tokens, the next sees everything.",
    ),
    _free(
        "return token",
        "how answers end",
        (
            "How does gpt-oss end its answer?",
            "Which token ends an answer?",
            "What does the return token do?",
            "What is the return token?",
            "What is <|return|>?",
            "When does gpt-oss stop?",
            "Which token stops gpt-oss?",
            "How do I know that gpt-oss is done?",
            "Which token ends the answer of gpt-oss?",
            "How does an answer of gpt-oss end?",
        ),
        "A final answer ends with the return token, a tool call with the call token.",
    ),
)

FACTS: tuple[Fact, ...] = _NUMBERS + _PROPERTIES + _TOPICS + _SENTENCES
