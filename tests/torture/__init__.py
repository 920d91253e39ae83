"""Attacks on what trainkit promises of its files: `make torture`. One file a family; `tests/test_torture.py` runs each in small."""
