"""Tokens in, tokens out: requests, one after another, in the thread that owns MLX.

Knows nothing of harmony, text or conversations.
"""
