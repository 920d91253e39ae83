"""The command line: `main` parses, `commands` does the work."""
