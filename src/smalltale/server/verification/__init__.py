"""Uploaded models: storage, sandboxed counting and the check against the declaration."""
