"""Uploaded models: storage in chunks, and verification against the declaration in a sandbox."""
