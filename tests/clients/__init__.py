"""Real clients of the server, unchanged, as a user runs them.

openai-python and anthropic-python are in the suite. The others are in ``programs``, and are installed and run by
``python -m tests.clients``.
"""
