"""Train and convert tokenizers, choose a vocabulary size, encode a corpus as token ids."""
