"""A submission in, judgements that can be trusted out."""
