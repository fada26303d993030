"""An event's folder to and from a dataset repository on the Hugging Face Hub, through the Hub's own client.

In: a folder and OWNER/NAME. Out: the repository's address, or a folder in the local cache.
Beware: the client reads HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE when it is first imported.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from smalltale.errors import SmalltaleError

FILES = ["submissions/**", "scores/**", "metadata.json", "meta.json"]
"""What makes an event; nothing else of a repository is fetched."""


def send_folder(folder: Path, repository: str, *, private: bool) -> str:
    """Put a folder into a dataset repository, made where it is new. Returns its address. Raises SmalltaleError."""
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise SmalltaleError(
            f"there is no token of the Hub to write {repository} with; set HF_TOKEN, or log in with: hf auth login"
        )
    with told(repository):
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
        address = api.create_repo(repository, repo_type="dataset", exist_ok=True, private=private)
        api.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=FILES,
            commit_message="An edition of smalltale",
        )
    return str(address)


def bring_folder(repository: str) -> Path:
    """Fetch a dataset repository's event. Raises SmalltaleError."""
    from huggingface_hub import snapshot_download

    with told(repository):
        endpoint = os.environ.get("HF_ENDPOINT") or None
        return Path(
            snapshot_download(repository, repo_type="dataset", allow_patterns=FILES, endpoint=endpoint)
        )


@contextlib.contextmanager
def told(repository: str) -> Iterator[None]:
    """Say what the Hub's client ran into as one line with the mend."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except (HFValidationError, HfHubHTTPError) as error:
        first = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise SmalltaleError(
            f"the Hub refuses {repository} ({first}); check its name (OWNER/NAME), HF_ENDPOINT and the token's rights"
        ) from error
    except (OSError, RuntimeError) as error:
        raise SmalltaleError(
            f"{repository} broke off ({error}); check the network, then give the same command again"
        ) from error
