"""Publishes a checkpoint: model card, Hugging Face Hub upload, GGUF file."""
