"""Constrained answers: a JSON schema, a regular expression or a list of choices, enforced token by token.

Knows the tokenizer; knows nothing of models or conversations.
"""
