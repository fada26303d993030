"""The transformer, its loss and checkpoint files, and models from other trainers."""
