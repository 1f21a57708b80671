"""The command connect: set the tracking server, and DagsHub as the storage of DVC."""

import re
from pathlib import Path

import git
from dvc.config import Config, ConfigError

from cnnClassifier.tracking.connection import (
    DAGSHUB_REMOTE,
    check_reachable,
    dagshub_host,
    is_remote,
)
from cnnClassifier.tracking.dagshub import find_token, read_user
from cnnClassifier.utils.common import atomic_write
from cnnClassifier.utils.errors import UserError
from cnnClassifier.utils.redaction import redact_credentials
from cnnClassifier.utils.yaml_edit import with_values

_DVC_DIR = Path(".dvc")
_LOCAL_CONFIG = _DVC_DIR / "config.local"
_DAGSHUB_SECRETS = {
    "MLFLOW_TRACKING_URI": "{uri}",
    "DAGSHUB_USER_TOKEN": "a token from {host}/user/settings/tokens",
}
_MLFLOW_SECRETS = {
    "MLFLOW_TRACKING_URI": "{uri}",
    "MLFLOW_TRACKING_USERNAME": "your user name on that server, if it asks for one",
    "MLFLOW_TRACKING_PASSWORD": "your password there, likewise",
}


class Connect:
    """Write the address of a server into the project's files; nothing is sent to it."""

    def __init__(self, config_path: Path) -> None:
        self.config_path = config_path

    def run(self, service: str, address: str) -> dict[str, str]:
        """Check the address and the credentials, then change the files.

        `evaluation.mlflow_uri` is set in config.yaml. For DagsHub, DVC gets the default remote
        `dagshub`: its address in .dvc/config, user and token in .dvc/config.local, which git
        ignores.

        Args:
            service: `dagshub` or `mlflow`.
            address: `USER/REPO`, or the URL of an MLflow server.

        Returns:
            The secrets that the workflow on GitHub needs: name, and where the value comes from.

        Raises:
            UserError: an invalid address, no answer, a refused token, or no DVC folder in git.
        """
        if service == "dagshub":
            return self._connect_dagshub(address)
        if not is_remote(address):
            raise UserError(f"{address}: expected http://HOST:PORT or https://HOST")
        if redact_credentials(address) != address:
            raise UserError(
                f"{redact_credentials(address)}: leave out user and password, which git would "
                "store; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        check_reachable(address)
        self._set_uri(address)
        return _secrets(_MLFLOW_SECRETS, uri=address)

    def _connect_dagshub(self, repository: str) -> dict[str, str]:
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository):
            raise UserError(f"{repository}: expected USER/REPO, as in the repository's address")
        config = _open_dvc_config()
        host = dagshub_host()
        token = find_token(host)
        user = read_user(host, token)
        uri = f"{host}/{repository}.mlflow"
        self._set_uri(uri)
        with config.edit("repo") as content:
            content["remote"][DAGSHUB_REMOTE] = {"url": f"{host}/{repository}.dvc"}
            content["core"]["remote"] = DAGSHUB_REMOTE
        _LOCAL_CONFIG.touch(mode=0o600)
        _LOCAL_CONFIG.chmod(0o600)  # where it has existed before
        with config.edit("local") as content:
            login = {"auth": "basic", "user": user, "password": token}
            content["remote"][DAGSHUB_REMOTE] = login
        return _secrets(_DAGSHUB_SECRETS, uri=uri, host=host)

    def _set_uri(self, uri: str) -> None:
        text = self.config_path.read_text(encoding="utf-8")
        with atomic_write(self.config_path) as temp_path:
            changed = with_values(text, {"evaluation.mlflow_uri": uri})
            temp_path.write_text(changed, encoding="utf-8")


def _open_dvc_config() -> Config:
    """Return the configuration of DVC in this folder, whose local file git ignores."""
    if not _DVC_DIR.is_dir():
        raise UserError(f"no folder {_DVC_DIR} here; run it in the project's folder")
    try:
        ignored = git.Repo(search_parent_directories=True).ignored(_LOCAL_CONFIG.resolve())
        config = Config(str(_DVC_DIR.resolve()))
    except git.InvalidGitRepositoryError:
        raise UserError("this folder isn't in a git repository; run `git init` first") from None
    except ConfigError as error:
        raise UserError(f"{_DVC_DIR}: {error}; correct its config files") from error
    if not ignored:
        raise UserError(f"git doesn't ignore {_LOCAL_CONFIG}; add /config.local to .dvc/.gitignore")
    return config


def _secrets(templates: dict[str, str], **values: str) -> dict[str, str]:
    return {name: template.format(**values) for name, template in templates.items()}
