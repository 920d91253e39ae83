"""Modules and losses, each with its derivative written by hand."""
