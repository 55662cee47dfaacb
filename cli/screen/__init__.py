"""The screen: styled text, Markdown, the keyboard, and the terminal, through which all output passes.

Knows nothing of models or chats.
"""
