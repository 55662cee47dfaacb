"""Coverage-guided fuzzing of what reads strangers' bytes; ``tests/hostile/test_fuzz.py`` replays what it found."""
