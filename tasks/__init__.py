"""Trials out of evidence: tasks, controls, the frozen study. No torch here."""
