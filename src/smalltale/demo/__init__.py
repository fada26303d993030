"""The report of `smalltale demo`; the command itself (cli/demo.py) runs the stages."""
