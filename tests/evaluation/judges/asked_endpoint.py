"""An endpoint, asked."""

from __future__ import annotations

from rupert.evaluation.judges.endpoint import Endpoint
from rupert.evaluation.judges.rubrics import Reply


def ask(endpoint: Endpoint, count: int = 1) -> list[Reply]:
    """The replies to several conversations, in their order."""
    replies = dict(endpoint.replies([[{"role": "user", "content": str(number)}] for number in range(count)]))
    assert len(replies) == count
    return [replies[number] for number in range(count)]
