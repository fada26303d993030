"""Trains a model on a token folder and writes its checkpoint."""
