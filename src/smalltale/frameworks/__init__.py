"""One module for each outside framework: prepared data out, checkpoint in."""
