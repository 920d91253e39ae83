"""What is done to the inputs before a net sees them."""
