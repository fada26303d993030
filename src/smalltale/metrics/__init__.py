"""Statistics of completions: diversity, copying, features, likelihood under reference models, provenance."""
