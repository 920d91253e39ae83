"""What everything else is built on: errors, random streams, validation, files, the terminal. Imports nothing of trainkit."""
