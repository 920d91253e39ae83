"""The command line: `options` declares the commands, `main` parses the words, `commands` does the work."""
