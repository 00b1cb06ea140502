"""The keeper: it runs by itself, and says when something is wrong."""
