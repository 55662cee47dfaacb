"""``python -m gptoss_mlx.cli`` is the ``gptoss`` command."""

from .app import main

main()
