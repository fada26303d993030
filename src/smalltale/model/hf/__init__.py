"""The transformers model class that is copied into every checkpoint."""
