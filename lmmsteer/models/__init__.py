"""Large multimodal models: where their parts are, how a row becomes their input."""
