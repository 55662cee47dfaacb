"""Coverage-guided fuzzing of all readers of untrusted bytes; ``tests/hostile/test_fuzz.py`` replays findings."""
