"""The transformer, from token ids to logits, and how its weights are loaded.

Knows nothing of text, requests or conversations.
"""
