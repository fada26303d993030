"""A checkpoint and prompts in, different completions out."""
