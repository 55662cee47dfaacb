"""Answers that must have a form: a JSON schema, a regular expression or a list of choices.

Knows the tokenizer; knows nothing of models or conversations.
"""
