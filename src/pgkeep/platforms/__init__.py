"""What is special about where a database lives."""
