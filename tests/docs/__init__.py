"""The site, and every command and snippet of it and of the README."""
