"""Finds the directory of a model by its name, and downloads models from the Hub.

Knows nothing of what is in a checkpoint beyond its files' names.
"""
