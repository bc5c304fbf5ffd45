"""What neurons respond to: stimuli, names, the semantic space and its map."""
