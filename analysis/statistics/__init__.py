"""Estimates and tests: data frames in, estimates out."""
