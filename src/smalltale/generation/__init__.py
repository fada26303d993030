"""Generates completions of prompts with a checkpoint or any other language model."""
