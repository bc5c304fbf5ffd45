"""ConceptEvo Harness: which concepts neurons learn, how they evolve, whether they matter."""
