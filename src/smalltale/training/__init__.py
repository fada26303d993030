"""Tokens in, a trained checkpoint out."""
