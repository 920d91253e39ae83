"""Errors, random streams, validation, files and the terminal. This package imports no other package of trainkit."""
