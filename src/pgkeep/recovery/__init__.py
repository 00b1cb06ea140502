"""Getting a database back: plan, load, prove, export."""
