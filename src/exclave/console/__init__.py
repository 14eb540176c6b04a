"""The operators' web pages: the same verbs and results as the command line, and nothing else. Read-only."""
