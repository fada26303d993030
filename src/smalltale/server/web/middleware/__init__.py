"""HTTP middleware: request limits, response cache, JSON logs."""
