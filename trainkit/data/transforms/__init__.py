"""Transformations of the inputs before they enter a net."""
