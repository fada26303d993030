"""Statistics of completions: diversity, memorization, features for the offline judge, likelihood, provenance."""
