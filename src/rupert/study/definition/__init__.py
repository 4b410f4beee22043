"""What a study is: read from YAML, held as a value, unfolded into the graph of its stages."""
