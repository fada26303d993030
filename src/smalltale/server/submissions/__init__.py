"""Receiving submissions, their declarations and who may see them."""
