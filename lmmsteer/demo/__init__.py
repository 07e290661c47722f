"""The built-in demo: drawn people, the grammar of their answers, the small LMM trained on both."""
