"""Runs broken in every way that a cluster knows, with real processes, and what is left compared."""
