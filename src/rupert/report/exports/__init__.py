"""A study's tables and figures as files for papers and notes, and which of them may be replaced."""
