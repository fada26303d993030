"""Outside frameworks: one module for each; prepared tokens go out in its format, its checkpoint comes back."""
