"""fable: a generator of synthetic children's stories."""
