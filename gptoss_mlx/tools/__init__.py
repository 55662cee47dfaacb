"""Tools: how functions and schemas are declared to the model, and how its calls are checked and answered.

Knows harmony's messages; knows nothing of models, generation or chats.
"""
