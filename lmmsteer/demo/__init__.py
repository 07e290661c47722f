"""The built-in demo: drawn people, the grammar of their answers, and the small LMM trained on both."""
