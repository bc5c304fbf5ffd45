"""Results and exhibits of a study."""
