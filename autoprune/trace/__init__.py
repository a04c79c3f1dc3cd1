"""Identity tracing: which channels of a model must be cut together, found by running it once on ids."""
