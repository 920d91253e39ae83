"""Attempts to break what trainkit promises: `make torture`. One file per family; `tests/test_torture.py` runs a few of each."""
