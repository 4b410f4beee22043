"""A defense, an attack and a judge for rupert; its entry points name them, so that importing this imports nothing."""
