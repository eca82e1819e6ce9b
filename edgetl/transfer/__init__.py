"""What is learned on features: pure functions on arrays."""
