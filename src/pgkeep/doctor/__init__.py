"""What `pgkeep doctor` looks at: facts are gathered, and findings are made of them, apart."""
