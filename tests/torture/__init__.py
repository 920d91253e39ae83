"""Attacks on what trainkit promises: `make torture`. One file a family; `tests/test_torture.py` is the short form."""
