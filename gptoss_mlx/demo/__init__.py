"""The embedded demonstration model: its checkpoint, and in the repository the code that trained and measured it.

The library reads ``checkpoint/`` and imports nothing from here.
"""
