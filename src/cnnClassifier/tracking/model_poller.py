"""Keep a folder with the bundle that a registry's alias points at; for servers, without MLflow being installed."""

import base64
import json
import os
import re
import shutil
import tempfile
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlencode, urlsplit

from cnnClassifier.entity.bundle import BUNDLE_FILES, INT8_FILE, METADATA_FILE, ModelBundle
from cnnClassifier.tracking.connection import TrackingError, credentials, in_one_line, is_remote
from cnnClassifier.utils.common import atomic_write, load_json, save_json
from cnnClassifier.utils.errors import BundleError, UserError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.redaction import redact_credentials

SCHEMES = ("models:/", "runs:/")
_SOURCE_FILE = "source.json"  # beside the bundle: which run and version it is
_TIMEOUT_S = 20


@dataclass(frozen=True)
class Reference:
    """What `--model` names: a run, or a registered model's alias or version."""

    text: str
    name: str = ""
    alias: str = ""
    version: str = ""
    run_id: str = ""

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Read `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/ID` or `runs:/ID/model`.

        Raises:
            UserError: it is none of them.
        """
        for pattern in (
            r"models:/(?P<name>[^/@]+)@(?P<alias>[^/@]+)",
            r"models:/(?P<name>[^/@]+)/(?P<version>\d+)",
            r"runs:/(?P<run_id>\w+)(/model)?",
        ):
            if found := re.fullmatch(pattern, text):
                return cls(text, **found.groupdict())
        raise UserError(
            f"{text}: expected models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID or a folder"
        )


class _Source(Protocol):
    def find(self, wanted: Reference) -> dict[str, str]:
        """Return `run_id` and, of a registered model, `version` and the `model_sha256` that it was tagged with."""

    def download(self, run_id: str, name: str, target: Path) -> None:
        """Fetch a file of the run's artifacts under `model`."""


class ModelPoller:
    """Fetch a model, and fetch it anew whenever its alias moves.

    Args:
        reference: as `Reference.parse` takes it.
        uri: of the tracking server or store.
        cache_dir: holds a folder for each reference.

    Attributes:
        folder: where the bundle is, once it has been fetched.

    Raises:
        UserError: the reference or the server can't be used.
    """

    def __init__(self, reference: str, uri: str, cache_dir: Path) -> None:
        self._wanted = Reference.parse(reference)
        self._uri = redact_credentials(uri)
        self._source: _Source = _Rest(uri) if is_remote(uri) else _Installed(uri)
        self.folder = cache_dir / re.sub(r"\W+", "-", reference)

    def fetch(self) -> bool:
        """Bring the folder up to date; it is replaced as a whole.

        Returns:
            Whether it has changed.

        Raises:
            TrackingError: the server doesn't answer, has no such model, or one that isn't whole. The folder stays.
        """
        try:
            found = self._source.find(self._wanted)
            if self._held() == found:
                return False
            with atomic_write(self.folder) as staged:
                staged.mkdir()
                for name in BUNDLE_FILES:
                    self._source.download(found["run_id"], name, staged / name)
                if load_json(staged / METADATA_FILE).get("int8_sha256"):
                    self._source.download(found["run_id"], INT8_FILE, staged / INT8_FILE)
                self._check(staged, found)
                save_json(staged / _SOURCE_FILE, found)
        except TrackingError:
            raise
        except BundleError as error:
            raise TrackingError(f"{self._wanted.text}: {error}") from None
        except Exception as error:  # urllib's and MLflow's, whatever they are
            raise TrackingError(
                f"{self._wanted.text} at {self._uri}: {in_one_line(error)}"
            ) from None
        return True

    def follow(self, every_s: float) -> None:
        """Fetch again and again in the background; a server that is down leaves what there is."""
        threading.Thread(
            target=self._go_on, args=(every_s,), name="follow-model", daemon=True
        ).start()

    def _go_on(self, every_s: float) -> None:
        said = ""
        pause = threading.Event()
        while True:
            said = self._try(said)
            pause.wait(every_s)

    def _try(self, said: str) -> str:
        try:
            if self.fetch():
                logger.info(
                    "%s is now %s", self._wanted.text, ModelBundle.read(self.folder).model_id
                )
        except UserError as error:
            if str(error) != said:  # once, however long it lasts
                logger.warning("%s; what is served stays", error)
            return str(error)
        return ""

    def _held(self) -> Any:
        try:
            return load_json(self.folder / _SOURCE_FILE)
        except (OSError, ValueError):
            return None

    def _check(self, folder: Path, found: dict[str, str]) -> None:
        bundle = ModelBundle.read(folder)  # which checks every file by its sha256
        if found.get("model_sha256", bundle.model_sha256) != bundle.model_sha256:
            raise TrackingError(
                f"{self._wanted.text}: the server gives another model than was registered (its sha256)"
            )


class _Rest:
    """MLflow's REST interface, as far as it takes."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        known = {**os.environ, **credentials(uri)}
        user, password = parts.username, parts.password
        user, password = (
            user or known.get("MLFLOW_TRACKING_USERNAME"),
            password or known.get("MLFLOW_TRACKING_PASSWORD"),
        )
        self._base = redact_credentials(uri).rstrip("/")
        self._authorization = ""
        if user and password:
            self._authorization = (
                f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
            )
        elif token := known.get("MLFLOW_TRACKING_TOKEN"):
            self._authorization = f"Bearer {token}"

    def find(self, wanted: Reference) -> dict[str, str]:
        if wanted.run_id:
            return {"run_id": wanted.run_id}
        which = "registered-models/alias" if wanted.alias else "model-versions/get"
        how = {"alias": wanted.alias} if wanted.alias else {"version": wanted.version}
        found = self._ask(which, name=wanted.name, **how)["model_version"]
        tags = {tag["key"]: tag["value"] for tag in found.get("tags", [])}
        return _found(found["run_id"], found["version"], tags)

    def download(self, run_id: str, name: str, target: Path) -> None:
        root = urlsplit(self._ask("runs/get", run_id=run_id)["run"]["info"]["artifact_uri"])
        if root.scheme == "mlflow-artifacts":
            address = (
                f"api/2.0/mlflow-artifacts/artifacts/{quote(root.path.strip('/'))}/model/{name}"
            )
        else:  # the server itself reads from where it stored
            address = f"get-artifact?{urlencode({'path': f'model/{name}', 'run_uuid': run_id})}"
        with self._open(address) as answer, target.open("wb") as file:
            shutil.copyfileobj(answer, file)

    def _ask(self, what: str, **query: str) -> Any:
        with self._open(f"api/2.0/mlflow/{what}?{urlencode(query)}") as answer:
            return json.load(answer)

    def _open(self, address: str) -> Any:
        request = urllib.request.Request(f"{self._base}/{address}")  # noqa: S310 - is_remote has looked at the scheme
        if self._authorization:  # and not to where it may be redirected
            request.add_unredirected_header("Authorization", self._authorization)
        try:
            return urllib.request.urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(2000).decode(errors="replace")
            raise TrackingError(
                f"{self._base}: {error.code} {error.reason}: {_message(said)}"
            ) from None


class _Installed:
    """MLflow's client, for stores that aren't servers."""

    def __init__(self, uri: str) -> None:
        try:
            import mlflow
        except ImportError:
            raise TrackingError(
                f"{uri} is no server, and reading it needs MLflow: pip install mlflow, or name a server"
            ) from None
        self._uri = uri
        self._client = mlflow.MlflowClient(uri, uri)

    def find(self, wanted: Reference) -> dict[str, str]:
        if wanted.run_id:
            return {"run_id": wanted.run_id}
        if wanted.alias:
            found = self._client.get_model_version_by_alias(wanted.name, wanted.alias)
        else:
            found = self._client.get_model_version(wanted.name, wanted.version)
        return _found(str(found.run_id), str(found.version), found.tags)

    def download(self, run_id: str, name: str, target: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            shutil.copyfile(
                self._client.download_artifacts(run_id, f"model/{name}", scratch), target
            )


def _found(run_id: str, version: str, tags: dict[str, str]) -> dict[str, str]:
    found = {"run_id": run_id, "version": version}
    return found | ({"model_sha256": tags["model_sha256"]} if "model_sha256" in tags else {})


def _message(said: str) -> str:
    try:
        return str(json.loads(said)["message"])[:200]
    except (ValueError, KeyError, TypeError):
        return "no reason given"
