"""Download published files with the Hugging Face Hub's client.

Input: a repository and a file name or glob. Output: paths in the local cache.
Pitfall: the client reads HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE when it is first imported.
"""

from __future__ import annotations

import fnmatch
import logging
import os
from pathlib import Path

from smalltale.errors import FileProblem, first_line

log = logging.getLogger(__name__)


def download_files(repository: str, pattern: str) -> list[Path]:
    """Return the files of a dataset that match `pattern`, from the cache or downloaded. Raises FileProblem.

    `pattern` is a file name, or globs separated by |, of which the first with a match is used.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    endpoint = os.environ.get("HF_ENDPOINT") or None
    names = [pattern]
    try:
        if "*" in pattern:
            repository_files = HfApi(endpoint=endpoint).list_repo_files(repository, repo_type="dataset")
            matches = (sorted(fnmatch.filter(repository_files, part)) for part in pattern.split("|"))
            names = next((names for names in matches if names), [])
            if not names:
                raise FileProblem(
                    f"{repository} has no {pattern}; it has {', '.join(repository_files[:10])}: download one of these and give its path"
                )
        paths = []
        for name in names:
            log.info(f"downloading {name} from {repository}")
            paths.append(Path(hf_hub_download(repository, name, repo_type="dataset", endpoint=endpoint)))
        return paths
    except OfflineModeIsEnabled as error:
        raise FileProblem(
            f"{repository} is not in the cache and HF_HUB_OFFLINE is set; unset it, or give a local path"
        ) from error
    except LocalEntryNotFoundError as error:
        raise FileProblem(
            f"{repository}/{pattern} is not in the cache and cannot be downloaded ({first_line(error)}); check the network, or give a local path"
        ) from error
    except HfHubHTTPError as error:
        raise FileProblem(
            f"{repository}/{pattern} cannot be downloaded ({first_line(error)}); check the name, HF_ENDPOINT and HF_TOKEN"
        ) from error
    except (OSError, RuntimeError) as error:
        raise FileProblem(
            f"the download of {repository}/{pattern} broke off ({first_line(error)}); repeat the command: it resumes"
        ) from error
