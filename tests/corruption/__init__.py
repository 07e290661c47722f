"""Random corruptions of a small complete run: all found, named and mended to the same bytes.

python -m tests.corruption 10000 [first seed]: one seed is one corruption, and one that was missed
is printed with its seed.
"""
