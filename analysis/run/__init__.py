"""The exhibits of a run."""
