"""One step of a chat's turn: a prompt rendered and its generation started. Each call of a tool leads to one more.

Here harmony and generation meet.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..events import Usage
from ..sampling import SamplingParams
from ..structured.guide import GuidePlan, guide_for
from .prompt import Prompt

if TYPE_CHECKING:
    from ..cache.store import PrefixCache
    from ..engine.engine import GptOss
    from ..engine.generation import Generation

__all__ = ["Step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is asked of one generation."""

    sampling: SamplingParams
    plan: GuidePlan = field(default_factory=GuidePlan)
    """What the answer is to be like."""
    logprobs: bool = False
    begun: tuple[int, ...] = ()
    """The tokens of an unfinished message that goes on."""

    def start(self, model: GptOss, prompt: Prompt, prefix: PrefixCache) -> Generation:
        """Queues the generation.

        Args:
            model: a loaded model.
            prompt: the conversation so far, the message that goes on not included.
            prefix: what is already computed of it.

        Raises:
            InvalidRequest: the conversation no longer fits the context.
            ModelClosed: the model was closed.
        """
        told = self.plan.constraint.response_format if self.plan.constraint else None
        rendering = replace(prompt, response_format=told).rendered(
            model.tokenizer, None if self.begun else "assistant"
        )
        return model._generate(
            [*rendering.tokens, *self.begun],
            self.sampling,
            prefix,
            rendering.boundaries,
            guide=guide_for(self.plan, model.tokenizer, model.config.vocab_size),
            logprobs=self.logprobs,
        )

    def after_a_call(self, used: Usage) -> Step:
        """The next step of the turn, with what is left of its bounds.

        Args:
            used: by all steps so far.
        """
        sampling = self.sampling
        if sampling.max_tokens is not None:
            sampling = replace(sampling, max_tokens=sampling.max_tokens - used.completion_tokens)
        return replace(self, sampling=sampling, plan=self.plan.after_a_call(used.reasoning_tokens), begun=())
