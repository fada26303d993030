"""Judge rubrics as versioned YAML, and our gold set."""
