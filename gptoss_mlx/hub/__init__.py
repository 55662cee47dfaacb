"""Names of models to directories on this machine, and downloads from the Hub.

Knows nothing of what is in a checkpoint beyond its files' names.
"""
