"""The memory that a model needs and a machine has, the precision that fits, and a Mac's settings meanwhile.

Everything follows from the config: no weights are read and nothing is computed with them.
Knows nothing of requests, conversations or checkpoints' files.
"""
