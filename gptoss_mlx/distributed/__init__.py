"""A model over several machines: how it is divided, how its machines meet, and how a lost one is noticed.

Knows plain values and sockets; knows nothing of prompts, requests or caches.
"""
