"""The page of `rupert view`: what it tells of a study, when it tells it, and the server that does."""
