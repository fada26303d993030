"""Other training frameworks: each has a module that exports tokens in its format and imports its checkpoint."""
