"""The embedded demonstration model: its checkpoint, and the programs that trained and measured it.

Running the model needs only ``checkpoint/``. The corpus and the evaluation import no torch; the training does.
"""
