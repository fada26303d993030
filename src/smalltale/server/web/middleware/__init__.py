"""HTTP middleware: request limits, conditional GET and compression, JSON logs."""
