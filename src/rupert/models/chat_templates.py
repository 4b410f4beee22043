"""Chat templates: how a conversation becomes one text, where it is not to be the tokenizer's own way."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from rupert.errors import InvalidValue, UnknownName, UsageError

# For a tokenizer that brings none: plain words, which need no special tokens. Training and evaluation both use it.
# The opening of an answer ends before the space, which tokenizers make part of the answer's first word.
DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ {'system': '', 'user': 'Question: ', 'assistant': 'Answer: '}[message['role']] + message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Answer:' }}{% endif %}"
)
# A line a message: for a tokenizer that does not know those words either.
BARE_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['content'] + (eos_token if message['role'] == 'assistant' else '') + '\n' }}"
    "{% endfor %}"
)
# What the expressions of a template can raise, beside Jinja's own errors.
OF_A_TEMPLATE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
CHAT_TEMPLATES = {"plain": DEFAULT_CHAT_TEMPLATE, "bare": BARE_CHAT_TEMPLATE}


def template_text(name: str) -> str:
    """The text of the template that is asked for; empty where it is to be the tokenizer's own.

    Args:
        name: empty, one of `CHAT_TEMPLATES`, or a file.

    Raises:
        UnknownName: none of them.
        InvalidValue: a file that cannot be read.
    """
    if not name or name in CHAT_TEMPLATES:
        return CHAT_TEMPLATES.get(name, "")
    if not name.endswith(".jinja"):
        raise UnknownName("chat_template", name, [*CHAT_TEMPLATES, "FILE.jinja"])
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InvalidValue("chat_template", name, "name a file of UTF-8 text that is there") from None


def try_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Put a conversation into the words of a tokenizer's template; raises a `UsageError` where that cannot be."""
    conversation = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    try:
        tokenizer.apply_chat_template(conversation, tokenize=False)
    except (chat_template_utils.jinja2.TemplateError, *OF_A_TEMPLATE) as error:
        raise UsageError(f"chat_template: {str(error)!r}; correct the template") from None
