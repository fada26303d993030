"""Import and export of an edition: archives, tables, Hugging Face datasets."""
