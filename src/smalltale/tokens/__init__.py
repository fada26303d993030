"""A corpus in, a tokenizer and token folders out."""
