"""The command line: the only floor that prints, asks and exits."""

import gc

# What is loaded and read stays in use: to look through all of it after every 700 new objects takes
# a sixth of the time of a start, and finds nothing.
gc.set_threshold(50_000)
