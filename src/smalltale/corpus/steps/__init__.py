"""The steps of a corpus build, one module for each."""
