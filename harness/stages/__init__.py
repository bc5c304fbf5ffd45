"""The stages of a run, and the engine that does their work."""
