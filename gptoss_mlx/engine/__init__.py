"""Tokens in, tokens out: a few requests at a time, in the thread that owns MLX.

Knows nothing of harmony, text or conversations.
"""
