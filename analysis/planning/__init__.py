"""Power of planned studies and coverage of the estimators."""
