"""The command line: one file for each command, which calls a verb and shows its result."""
