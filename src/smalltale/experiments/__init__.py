"""Training runs on disk: list, plot and compare them; search hyperparameters."""
