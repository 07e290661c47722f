"""The engines: requests and an edit in, responses out. Knows nothing of Ray, files or data sets."""
