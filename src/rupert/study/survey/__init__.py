"""What stands in the store of a study: found from the store alone."""
