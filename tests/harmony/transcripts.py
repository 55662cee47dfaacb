"""Twenty replies in the forms that gpt-oss writes. Each follows ``<|start|>assistant``."""

from __future__ import annotations

TRANSCRIPTS = [
    # Thinking and an answer.
    "<|channel|>analysis<|message|>Simple arithmetic.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>2 + 2 = 4.<|return|>",
    # An answer at once.
    "<|channel|>final<|message|>Hello! How can I help?<|return|>",
    # A function call, the recipient after the channel.
    "<|channel|>analysis<|message|>Need to use get_weather.<|end|><|start|>assistant"
    '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city":"Oslo"}<|call|>',
    # The recipient before the channel.
    "<|channel|>analysis<|message|>Call it.<|end|><|start|>assistant to=functions.get_weather"
    '<|channel|>commentary <|constrain|>json<|message|>{"city": "Oslo"}<|call|>',
    # The constraint glued to the channel.
    ' to=functions.f<|channel|>commentary<|constrain|>json<|message|>{"a":[1,2]}<|call|>',
    # The constraint glued to the recipient.
    "<|channel|>commentary to=functions.f<|constrain|>json<|message|>{}<|call|>",
    # The content type without its control token.
    "<|channel|>commentary to=functions.f json<|message|>{}<|call|>",
    # A built-in tool, called on analysis.
    '<|channel|>analysis to=browser.search code<|message|>{"query": "Oslo"}<|call|>',
    # Python, several lines.
    "<|channel|>analysis to=python code<|message|>import math\nprint(math.pi)\n<|call|>",
    # A preamble before a call.
    "<|channel|>analysis<|message|>Plan.<|end|><|start|>assistant<|channel|>commentary<|message|>"
    "**Plan**:\n1. Look\n2. Tell<|end|><|start|>assistant<|channel|>commentary to=functions.f"
    "<|constrain|>json<|message|>{}<|call|>",
    # More thinking after a tool's result.
    "<|channel|>analysis<|message|>It is 4 degrees.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>4 °C<|return|>",
    # Scripts and emoji.
    "<|channel|>final<|message|>你好，世界！ Здравствуй 👋🏾<|return|>",
    # A table and code.
    "<|channel|>final<|message|>| a | b |\n|---|---|\n```py\nx = 1\n```<|return|>",
    # Text about channels.
    "<|channel|>final<|message|>The channels are analysis, commentary and final.<|return|>",
    # An answer in JSON, for a response format.
    '<|channel|>final <|constrain|>json<|message|>{"items":["milk"]}<|return|>',
    # Two thoughts in a row.
    "<|channel|>analysis<|message|>First.<|end|><|start|>assistant<|channel|>analysis<|message|>Second.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>Done.<|return|>",
    # A whole loop: call, result, answer.
    "<|channel|>commentary to=functions.f<|message|>{}<|call|>"
    "<|start|>functions.f to=assistant<|channel|>commentary<|message|>7<|end|>"
    "<|start|>assistant<|channel|>final<|message|>Seven.<|return|>",
    # A refusal.
    "<|channel|>analysis<|message|>Disallowed.<|end|><|start|>assistant<|channel|>final<|message|>"
    "I’m sorry, but I can’t help with that.<|return|>",
    # Empty thinking.
    "<|channel|>analysis<|message|><|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>",
    # No channel.
    "<|message|>Just text.<|end|>",
]
