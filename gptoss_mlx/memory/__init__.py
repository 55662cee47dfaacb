"""What a model needs of a machine and what may be used of it, from the config alone.

Reads no weights and computes nothing with them.
"""
