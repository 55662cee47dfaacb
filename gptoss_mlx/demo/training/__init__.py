"""What trained the demonstration model. Needs torch and is not part of the wheel.

The library never imports it.
"""
