"""Trains the demo model on a CPU and writes its checkpoint: ``python -m gptoss_mlx.demo.training.train``.

Every batch follows from the seed and its step, so a run that was stopped continues with the same result.
Needs torch and transformers (the `parity` extra).
"""

from __future__ import annotations

import argparse
import ctypes
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GptOssForCausalLM

from gptoss_mlx.harmony import Conversation, render
from gptoss_mlx.tokenizer import Tokenizer

from .corpus import Corpus, Stage
from .export import export_checkpoint, model_config, read_checkpoint
from .torch_model import Layout, attention_mask, build_model
from .vocabulary import demo_tokenizer, read_ranks

__all__ = ["Batch", "Muon", "known_words", "main", "make_batch"]

LONGEST = 512


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Conversations in one sequence of tokens, in groups that share a system message."""

    tokens: Tensor
    """(1, L)."""
    positions: Tensor
    """(1, L): the positions of every conversation continue those of its system message."""
    learnt: Tensor
    """(1, L): whether the model writes the token, and so learns it."""
    groups: Sequence[tuple[slice, Sequence[slice]]]
    """The ranges of the system messages, and of the conversations of each."""


def known_words(path: str | Path, count: int = 40_000, parts: int = 3000) -> list[str]:
    """Random words to copy.

    They are the tokens of o200k that are a word of letters and, as often as a fifth of these, the parts of words
    among the demo's own tokens: a token that no training answer has is not copied either.
    """
    pieces = read_ranks(path, count)
    words = [
        text[1:].decode() for text in pieces if text[:1] == b" " and text[1:].isalpha() and 4 <= len(text) <= 12
    ]
    ends = [text.decode() for text in pieces[:parts] if text.isalpha() and len(text) > 1]
    return words + ends * (len(words) // 5 // len(ends))


def _learnt_tokens(tokens: Sequence[int], tokenizer: Tokenizer) -> list[bool]:
    """Which tokens the model writes itself: the assistant's messages after the last user message."""
    special = tokenizer.special
    start, ends = special["<|start|>"], {special[name] for name in ("<|end|>", "<|return|>", "<|call|>")}
    headers = {role: tokenizer.encode(role)[0] for role in ("assistant", "user")}
    starts = [at for at, token in enumerate(tokens) if token == start]
    question = max(at for at in starts if tokens[at + 1] == headers["user"])
    learnt = [False] * len(tokens)
    for at in starts:
        if at < question or tokens[at + 1] != headers["assistant"]:
            continue
        # After the question or a function's result, the header up to the role is given.
        first = at if learnt[at - 1] else at + 1 + len(tokenizer.encode("assistant"))
        last = next(end for end in range(at, len(tokens)) if tokens[end] in ends)
        learnt[first : last + 1] = [True] * (last + 1 - first)
    return learnt


def _conversation_tokens(corpus: Corpus, setting: Any, tokenizer: Tokenizer) -> list[int]:
    """One conversation; its last message, a final answer, ends in return."""
    tokens = render(Conversation.from_dict(corpus.conversation(setting)), tokenizer, next_role=None)
    return [*tokens[:-1], tokenizer.special["<|return|>"]]


def make_batch(corpus: Corpus, rows: int, length: int, tokenizer: Tokenizer) -> Batch:
    """The next batch: each row a system message and as many conversations as `length` tokens hold."""
    tokens: list[int] = []
    positions: list[int] = []
    learnt: list[bool] = []
    groups: list[tuple[slice, list[slice]]] = []
    end = tokenizer.special["<|end|>"]
    for _ in range(rows):
        setting, row = corpus.setting(), len(tokens)
        conversations: list[slice] = []
        while True:
            new = _conversation_tokens(corpus, setting, tokenizer)
            if len(new) > LONGEST:
                continue
            shared = new.index(end) + 1
            first = shared if conversations else 0
            if len(tokens) - row + len(new) - first > length:
                break
            tokens += new[first:]
            positions += range(first, len(new))
            learnt += _learnt_tokens(new, tokenizer)[first:]
            conversations.append(slice(len(tokens) - len(new) + shared, len(tokens)))
        groups.append((slice(row, row + shared), conversations))
    return Batch(
        tokens=torch.tensor([tokens]),
        positions=torch.tensor([positions]),
        learnt=torch.tensor([learnt]),
        groups=groups,
    )


def batch_loss(model: GptOssForCausalLM, batch: Batch, masks: dict[str, Tensor]) -> Tensor:
    """The mean loss on the model's own tokens; the head is computed for those alone."""
    layouts = {kind: Layout(groups=batch.groups, mask=mask) for kind, mask in masks.items()}
    states = model.model(
        input_ids=batch.tokens, position_ids=batch.positions, attention_mask=layouts, use_cache=False
    ).last_hidden_state
    # The token before a learnt one is in the same conversation, which begins with the user's words.
    predicts = batch.learnt[:, 1:]
    logits = model.lm_head(states[:, :-1][predicts])
    loss: Tensor = F.cross_entropy(logits, batch.tokens[:, 1:][predicts])
    return loss


class Muon(torch.optim.Optimizer):
    """Momentum whose updates are made orthogonal (Jordan et al. 2024), for (E, in, out) and (out, in) weights."""

    def __init__(
        self, params: Iterator[nn.Parameter] | list[nn.Parameter], lr: float, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates every parameter once."""
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"]
                momentum.lerp_(parameter.grad, 1 - group["momentum"])
                update = _orthogonal(parameter.grad.lerp(momentum, group["momentum"]))
                larger = max(1.0, parameter.shape[-2] / parameter.shape[-1]) ** 0.5
                parameter.mul_(1 - 0.01 * group["lr"]).add_(update, alpha=-group["lr"] * larger)


def _orthogonal(matrix: Tensor) -> Tensor:
    """Five Newton-Schulz steps towards the nearest orthogonal matrix."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[-2] > matrix.shape[-1]
    x: Tensor = matrix.mT if tall else matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def make_optimizers(model: GptOssForCausalLM, matrix_rate: float, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks; AdamW for embeddings, head, router, norms, biases and sinks."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inner = name.endswith(("_proj.weight", "gate_up_proj", "down_proj"))
        (matrices if inner else others).append(parameter)
    adam = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    return [Muon(matrices, lr=matrix_rate), adam]


def schedule(step: int, steps: int, decay: float) -> float:
    """The learning rate's factor: warm-up, a plateau, and a linear decay over the last share of steps."""
    return min(1.0, (step + 1) / 100, max(0.0, (steps - step) / (decay * steps)))


def stage(step: int, copying: int, drills: Sequence[int]) -> Stage:
    """The stage of the corpus at a step: copying before `copying`, drills between the two of `drills`."""
    if step < copying:
        return "copying"
    return "drills" if drills[0] <= step < drills[1] else "all"


def _keep_freed_memory() -> None:
    """Tells glibc to keep freed memory: returning it to the system after every step takes a third of the time."""
    if sys.platform == "linux":
        libc = ctypes.CDLL("libc.so.6")
        for parameter, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**28)):
            libc.mallopt(parameter, value)


def train(arguments: argparse.Namespace) -> GptOssForCausalLM:
    """Trains from random weights or those of a checkpoint, or goes on from the saved state."""
    torch.manual_seed(arguments.seed)
    tokenizer = demo_tokenizer(arguments.vocabulary, arguments.vocabulary_size)
    words = known_words(arguments.vocabulary)
    model = build_model(model_config(tokenizer))
    if arguments.start:
        model.load_state_dict(read_checkpoint(Path(arguments.start)))
    optimizers = make_optimizers(model, arguments.matrix_rate, arguments.rate)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    state_file, first = Path(arguments.state), 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        first = state["step"]
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    masks = {
        "full_attention": attention_mask(LONGEST),
        "sliding_attention": attention_mask(LONGEST, model.config.sliding_window),
    }
    began, mean = time.time(), math.nan
    last = min(arguments.steps, arguments.until or arguments.steps)
    for step in range(first, last):
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * schedule(step, arguments.steps, arguments.decay)
        seed = arguments.seed * 1_000_000 + step
        corpus = Corpus(seed, words, stage=stage(step, arguments.copying, arguments.drills))
        batch = make_batch(corpus, arguments.rows, arguments.row_length, tokenizer)
        loss = batch_loss(model, batch, masks)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        mean = loss.item() if math.isnan(mean) else 0.95 * mean + 0.05 * loss.item()
        if (step + 1) % 25 == 0:
            pace = (time.time() - began) / (step + 1 - first)
            print(f"step {step + 1} of {arguments.steps}  loss {mean:.4f}  {pace:.2f} s a step", flush=True)
        if (step + 1) % arguments.save_every == 0 or step + 1 == last:
            _save(state_file, step + 1, model, optimizers)
    return model


def _save(path: Path, step: int, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    state = {"step": step, "model": model.state_dict(), "optimizers": [each.state_dict() for each in optimizers]}
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    temporary.replace(path)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", default="tests/data/o200k_base.tiktoken", help="o200k's .tiktoken file")
    parser.add_argument("--vocabulary-size", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", help="the directory of a checkpoint to begin with, in place of random weights")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--decay", type=float, default=0.5, help="share of the steps in which the rate falls")
    parser.add_argument("--until", type=int, help="stop after this step, before the learning rate is down")
    parser.add_argument("--rows", type=int, default=3, help="system messages in a batch")
    parser.add_argument("--row-length", type=int, default=800, help="tokens after each, itself included")
    parser.add_argument("--copying", type=int, default=420, help="steps at the start that mostly repeat texts")
    parser.add_argument(
        "--drills", type=int, nargs=2, default=(1400, 4000), help="steps with drills among the rest"
    )
    parser.add_argument("--rate", type=float, default=2e-3, help="AdamW's learning rate")
    parser.add_argument("--matrix-rate", type=float, default=0.01, help="Muon's learning rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--state", default="demo-training.pt", help="where a run is saved, and goes on from")
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--out", default=str(Path(__file__).parents[1] / "checkpoint"))
    arguments = parser.parse_args()
    _keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    model = train(arguments)
    tokenizer = demo_tokenizer(arguments.vocabulary, arguments.vocabulary_size)
    export_checkpoint(model, tokenizer, arguments.vocabulary, Path(arguments.out))


if __name__ == "__main__":
    main()
