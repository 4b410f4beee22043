"""What holds of the code as a whole, read from its source."""
