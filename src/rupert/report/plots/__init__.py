"""The study's plots: each a function to a figure, or to None where nothing was measured that it could show."""
