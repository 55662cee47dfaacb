"""Functions that a model may call: what it is told of them, and how a call is answered.

Knows harmony's messages; knows nothing of models or generation.
"""
