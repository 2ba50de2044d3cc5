"""What the tests have in common, each module named for what it gives."""
