"""The three papers' experiments in miniature: `make papers` (python -m tests.papers FOLDER)."""
