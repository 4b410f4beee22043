"""Uploading a folder as a new model on the Hugging Face Hub, private unless it is asked for otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rupert.errors import InvalidValue, RunError, UsageError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FLAG = "--push-to-hub"


def hub_for(name: str) -> HfApi:
    """The Hub, where it knows the user and has no model of that name yet.

    Args:
        name: OWNER/NAME.

    Raises:
        UsageError: the name is not valid or taken, nobody is logged in, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        name_is_valid = False
    else:
        name_is_valid = name.count("/") == 1
    if not name_is_valid:
        raise InvalidValue(FLAG, name, "write OWNER/NAME, with letters, digits, '-', '_' and '.'")
    api = HfApi()
    with _told(UsageError, "check login and network, or leave it out"):
        api.whoami()
        is_taken = api.repo_exists(name)
    if is_taken:
        raise UsageError(f"{FLAG}: {name!r} is on the Hub already; name a new one, so that nothing is overwritten")
    return api


def upload(api: HfApi, name: str, folder: Path, *, is_public: bool) -> str:
    """Make the repository and put the folder into it.

    Returns:
        where it is.

    Raises:
        RunError: it could not be done; the folder is whole.
    """
    with _told(RunError, f"{str(folder)!r} is whole: upload it with `hf upload {name} {folder}`"):
        place = api.create_repo(name, private=not is_public, exist_ok=False)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Hardened weights and card, by rupert")
    return str(place)


@contextmanager
def _told(kind: type[UsageError | RunError], remedy: str) -> Iterator[None]:
    """What goes wrong on the way to the Hub as one line."""
    from huggingface_hub import errors

    client_error = errors.HTTPError  # type: ignore[attr-defined]  # the root of the HTTP client's errors
    try:
        yield
    except errors.LocalTokenNotFoundError:
        raise kind(f"{FLAG}: nobody is logged in here; type `hf auth login`, or set HF_TOKEN") from None
    except (ConnectionError, client_error) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise kind(f"{FLAG}: {reason}; {remedy}") from None
