"""Concepts of neurons: stimuli, true concepts, the semantic space and its map."""
