"""The sources of a corpus: files, folders, Hub datasets and `fable`, read as documents."""
