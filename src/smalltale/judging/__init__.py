"""Score the completions of a submission with LLM judges that have qualified for it."""
