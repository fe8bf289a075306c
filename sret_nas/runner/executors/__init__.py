"""Who starts the workers of a run: this machine, or a Ray cluster."""
