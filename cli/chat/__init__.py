"""`gptoss chat` and `gptoss run`: the loop, the slash commands, answers on the screen, saved chats.

Uses the library's public names and the screen; knows nothing of how a model computes.
"""
