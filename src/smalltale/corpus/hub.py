"""Published files from the Hugging Face Hub, through its own client.

In: a repository and a file or glob. Out: paths in the local cache.
Beware: the client reads HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE when it is first imported.
"""

from __future__ import annotations

import fnmatch
import logging
import os
from pathlib import Path

from smalltale.errors import FileProblem, first_line

log = logging.getLogger(__name__)


def download_files(repository: str, pattern: str) -> list[Path]:
    """The files of a data set that `pattern` names, fetched or from the cache. Raises FileProblem.

    `pattern` is a file's name, or globs with | between them, of which the first that fits any file counts.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    endpoint = os.environ.get("HF_ENDPOINT") or None
    names = [pattern]
    try:
        if "*" in pattern:
            listed = HfApi(endpoint=endpoint).list_repo_files(repository, repo_type="dataset")
            fitting = (
                sorted(name for name in listed if fnmatch.fnmatch(name, each)) for each in pattern.split("|")
            )
            names = next((names for names in fitting if names), [])
            if not names:
                raise FileProblem(
                    f"{repository} holds no {pattern}; it has {', '.join(listed[:10])}: fetch one and give its path"
                )
        paths = []
        for name in names:
            log.info(f"fetching {name} from {repository}")
            paths.append(Path(hf_hub_download(repository, name, repo_type="dataset", endpoint=endpoint)))
        return paths
    except OfflineModeIsEnabled as error:
        raise FileProblem(
            f"{repository} is not in the cache and HF_HUB_OFFLINE is set; unset it, or give a local path"
        ) from error
    except LocalEntryNotFoundError as error:
        raise FileProblem(
            f"{repository}/{pattern} can be neither fetched nor found in the cache ({first_line(error)}); check the network, or give a local path"
        ) from error
    except HfHubHTTPError as error:
        raise FileProblem(
            f"{repository}/{pattern} cannot be fetched ({first_line(error)}); check the name, HF_ENDPOINT and HF_TOKEN"
        ) from error
    except (OSError, RuntimeError) as error:
        raise FileProblem(
            f"{repository}/{pattern} broke off ({first_line(error)}); the same command goes on from there"
        ) from error
