"""`gptoss chat` and `gptoss run`: the loop, the slash commands, what is shown of an answer, saved chats.

Knows the library's public names and the screen.
"""
