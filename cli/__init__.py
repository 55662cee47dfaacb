"""The ``gptoss`` command. It uses the library; the library knows nothing of it."""
