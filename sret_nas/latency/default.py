"""The runtime where none is asked for; by name, so that nothing is imported for it."""

TORCH = "torch"
