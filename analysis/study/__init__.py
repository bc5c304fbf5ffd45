"""The results and exhibits of a study."""
