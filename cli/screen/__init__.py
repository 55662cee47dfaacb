"""The screen: styled text, Markdown, the keyboard and the terminal, the one door for a model's words.

Knows nothing of models or chats.
"""
