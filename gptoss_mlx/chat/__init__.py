"""Conversations: what was said, the prompt that it makes, and the turns that add to it.

Knows an engine of tokens; knows nothing of how it computes.
"""
