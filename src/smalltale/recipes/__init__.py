"""Recipes that ship with smalltale, one TOML file a run."""
