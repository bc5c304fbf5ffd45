"""How much evolutions matter: sensitivity, importance, arms, ablation."""
