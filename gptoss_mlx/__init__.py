"""gpt-oss on Apple silicon: exact, scriptable, in a terminal people like."""
