"""Keys and values of the positions a model has seen: by layer, by prompt, in one store, and in a file.

Knows tokens; knows nothing of text or conversations.
"""
