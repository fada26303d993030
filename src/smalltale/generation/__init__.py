"""A checkpoint and prompts in, different completions out."""

import os

# Read when torch loads its OpenMP: threads that spin at the end of each short kernel cost a busy machine
# far more than the kernel (8 rows a step: 8 ms instead of 400 on two cores, 2026-11-23).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
