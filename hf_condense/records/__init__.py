"""One schema for every file that a stranger may have written: the writer writes through it, the reader reads through it."""
