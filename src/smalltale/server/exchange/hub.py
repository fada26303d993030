"""Upload an exported edition to a dataset repository on the Hugging Face Hub, and download it.

Input: a folder and OWNER/NAME. Output: the repository's URL, or a folder in the local cache.
Pitfall: huggingface_hub reads HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE when it is first imported.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from smalltale.errors import SmalltaleError, first_line

FILES = ["submissions/**", "scores/**", "metadata.json", "meta.json"]
"""The files of an exported edition; nothing else in a repository is transferred."""


def upload_folder(folder: Path, repository: str, *, private: bool) -> str:
    """Upload a folder to a dataset repository, created if it does not exist. Returns its URL. Raises SmalltaleError."""
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise SmalltaleError(
            f"no Hugging Face token with write access to {repository}; set HF_TOKEN, or log in with: hf auth login"
        )
    with translate_hub_errors(repository):
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
        url = api.create_repo(repository, repo_type="dataset", exist_ok=True, private=private)
        api.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=FILES,
            commit_message="An edition of smalltale",
        )
    return str(url)


def download_folder(repository: str) -> Path:
    """Download an edition from a dataset repository. Raises SmalltaleError."""
    from huggingface_hub import snapshot_download

    with translate_hub_errors(repository):
        endpoint = os.environ.get("HF_ENDPOINT") or None
        return Path(
            snapshot_download(repository, repo_type="dataset", allow_patterns=FILES, endpoint=endpoint)
        )


@contextlib.contextmanager
def translate_hub_errors(repository: str) -> Iterator[None]:
    """Turn errors of the Hub's client into one line that says how to fix them."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except (HFValidationError, HfHubHTTPError) as error:
        raise SmalltaleError(
            f"the Hub refuses {repository} ({first_line(error)}); check its name (OWNER/NAME), HF_ENDPOINT and the token's permissions"
        ) from error
    except (OSError, RuntimeError) as error:
        raise SmalltaleError(
            f"the transfer of {repository} failed ({error}); check the network, then run the same command again"
        ) from error
