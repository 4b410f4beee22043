"""The tamper-resistance section of a model card: facts from records, the same as Markdown, metadata and JSON.

Nothing is said that no record supports; what was not tried is said by name. No text of a model is in it.
"""
