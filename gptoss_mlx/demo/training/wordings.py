"""Wordings of questions: names of the models, and templates for counts, properties and topics.

Used for facts and for questions that look like them.
"""

from __future__ import annotations

__all__ = ["COUNT", "MODELS", "PROPERTY", "TOPIC"]

# How a person may write the name of a model; "" stands for gpt-oss as a family.
MODELS = {
    "20b": (
        "gpt-oss-20b",
        "gpt-oss-20b",
        "gpt-oss 20b",
        "the 20b",
        "the 20b model",
        "gptoss 20b",
        "gpt-oss:20b",
        "20b",
    ),
    "120b": (
        "gpt-oss-120b",
        "gpt-oss-120b",
        "gpt-oss 120b",
        "the 120b",
        "the 120b model",
        "gptoss 120b",
        "gpt-oss:120b",
        "120b",
    ),
    "": ("gpt-oss", "gpt-oss", "gptoss", "gpt oss", "the gpt-oss models", "OpenAI's gpt-oss"),
}

COUNT = (
    "How many {x} does {m} have?",
    "How many {x} are in {m}?",
    "How many {x} are there in {m}?",
    "How many {x} has {m}?",
    "{m}: how many {x}?",
    "What is the number of {x} in {m}?",
    "Number of {x} of {m}?",
    "Tell me how many {x} {m} has.",
    "Do you know how many {x} {m} has?",
    "I need the number of {x} in {m}.",
    "Give me the number of {x} for {m}.",
    "Can you tell me the number of {x} in {m}?",
    "{m} {x}?",
    "how many {x} in {m}",
    "With how many {x} does {m} work?",
    "What's the {x} count of {m}?",
)

PROPERTY = (
    "What is the {x} of {m}?",
    "What's the {x} of {m}?",
    "Tell me the {x} of {m}.",
    "What {x} does {m} have?",
    "Which {x} does {m} use?",
    "How big is the {x} of {m}?",
    "How large is the {x} in {m}?",
    "Do you know the {x} of {m}?",
    "I want to know the {x} of {m}.",
    "{x} of {m}?",
    "{m} {x}?",
    "{m}: what is the {x}?",
    "Can you tell me the {x} of {m}?",
    "Give me the {x} of {m}.",
    "what {x} has {m}",
    "What about the {x} of {m}?",
)

TOPIC = (
    "What is {x}?",
    "What are {x}?",
    "What does {x} mean?",
    "Explain {x}.",
    "Explain {x} to me.",
    "Can you explain {x}?",
    "Tell me about {x}.",
    "Tell me something about {x}.",
    "Describe {x}.",
    "How does {x} work?",
    "What do you know about {x}?",
    "{x}?",
    "Please explain what {x} is.",
    "I want to learn about {x}.",
    "Do you know what {x} is?",
    "What is meant by {x}?",
)
