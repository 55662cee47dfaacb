"""The code that trained and measured the demonstration model; it is not in the wheel.

The corpus and the evaluation import no torch; the training does. The library never imports this package.
"""
