"""The command line: the only floor that prints, asks and exits."""
