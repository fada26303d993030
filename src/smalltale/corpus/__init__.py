"""Text in, a clean corpus folder out: sources, cleaning, duplicates, vocabulary, report."""
