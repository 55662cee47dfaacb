"""Coverage-guided fuzzing of what reads strangers' bytes; ``tests/test_hostile_fuzz.py`` replays what it found."""
