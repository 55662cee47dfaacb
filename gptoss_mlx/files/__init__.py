"""How files are opened that a stranger may have written, and the one writer that saves them whole or not at all.

Knows nothing of what the files mean.
"""
