"""Concepts of neurons: stimuli, names, the semantic space and its map."""
