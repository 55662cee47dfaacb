"""The one reader of files from strangers, and the one writer, which saves a file completely or not at all.

Knows nothing of what the files mean.
"""
