"""Keep a copy of the model that an alias of the registry points at; for servers without MLflow."""

import base64
import json
import os
import re
import shutil
import tempfile
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from cnnClassifier.entity.bundle import BUNDLE_FILES, INT8_FILE, METADATA_FILE, ModelBundle
from cnnClassifier.tracking.connection import (
    TrackingError,
    credentials,
    error_message,
    is_remote,
)
from cnnClassifier.utils.common import atomic_write, load_json, save_json
from cnnClassifier.utils.errors import BundleError, UserError
from cnnClassifier.utils.log import logger
from cnnClassifier.utils.redaction import redact_credentials

SCHEMES = ("models:/", "runs:/")
_SOURCE_FILE = "source.json"  # beside the bundle: its run and version
_TIMEOUT_S = 20
_PATTERNS = (
    r"models:/(?P<name>[^/@]+)@(?P<alias>[^/@]+)",
    r"models:/(?P<name>[^/@]+)/(?P<version>\d+)",
    r"runs:/(?P<run_id>\w+)(?:/model)?",
)


def parse_reference(text: str) -> dict[str, str]:
    """Parse `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/ID` or `runs:/ID/model`.

    Returns:
        `name` and `alias`, `name` and `version`, or `run_id`.

    Raises:
        UserError: it is none of them.
    """
    for pattern in _PATTERNS:
        if match := re.fullmatch(pattern, text):
            return match.groupdict()
    raise UserError(
        f"{text}: expected models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID or a folder"
    )


class ModelPoller:
    """Download a model, and again whenever its alias moves.

    Args:
        reference: as for `parse_reference`.
        uri: address of the tracking server or database.
        cache_dir: has a folder for each reference.

    Attributes:
        folder: the bundle, once it has been downloaded.

    Raises:
        UserError: the reference is invalid, or the address can't be used.
    """

    def __init__(self, reference: str, uri: str, cache_dir: Path) -> None:
        self._text = reference
        self._reference = parse_reference(reference)
        self._uri = redact_credentials(uri)
        self._client = _RestClient(uri) if is_remote(uri) else _DatabaseClient(uri)
        # `a-b@c` and `a@b-c` have different folders.
        self.folder = cache_dir / quote(reference, safe="@")

    def fetch(self) -> bool:
        """Bring the folder up to date; it is replaced as a whole.

        Returns:
            Whether it has changed.

        Raises:
            TrackingError: the server can't be reached, has no such model, or an incomplete one.
                The folder stays.
        """
        try:
            return self._update()
        except TrackingError:
            raise
        except BundleError as error:
            raise TrackingError(f"{self._text}: {error}") from None
        except Exception as error:  # of urllib or MLflow
            raise TrackingError(f"{self._text} at {self._uri}: {error_message(error)}") from None

    def follow(self, interval_s: float) -> None:
        """Fetch at intervals in the background; while the server is down, the last model stays."""
        threading.Thread(
            target=self._poll, args=(interval_s,), name="model-poller", daemon=True
        ).start()

    def _poll(self, interval_s: float) -> None:
        last_error = ""
        pause = threading.Event()
        while True:
            try:
                if self.fetch():
                    model_id = ModelBundle.read(self.folder).model_id
                    logger.info("%s is now %s", self._text, model_id)
                last_error = ""
            except UserError as error:
                if str(error) != last_error:  # logged once, however long it lasts
                    logger.warning("%s; the model that is served stays", error)
                last_error = str(error)
            pause.wait(interval_s)

    def _update(self) -> bool:
        source = self._find_source()
        with suppress(OSError, ValueError):
            if load_json(self.folder / _SOURCE_FILE) == source:
                return False
        run_id = source["run_id"]
        with atomic_write(self.folder) as temp_path:
            temp_path.mkdir()
            for name in BUNDLE_FILES:
                self._client.download(run_id, name, temp_path / name)
            if load_json(temp_path / METADATA_FILE).get("int8_sha256"):
                self._client.download(run_id, INT8_FILE, temp_path / INT8_FILE)
            bundle = ModelBundle.read(temp_path)  # checks each file by its sha256
            if source.get("model_sha256", bundle.model_sha256) != bundle.model_sha256:
                raise TrackingError(
                    f"{self._text}: the model isn't the registered one (its sha256)"
                )
            save_json(temp_path / _SOURCE_FILE, source)
        return True

    def _find_source(self) -> dict[str, str]:
        """Return the run, and of a registered model the version and the sha256 in its tags."""
        if "run_id" in self._reference:
            return self._reference
        run_id, version, tags = self._client.get_version(self._reference)
        source = {"run_id": run_id, "version": version}
        if "model_sha256" in tags:
            source["model_sha256"] = tags["model_sha256"]
        return source


class _RestClient:
    """The part of MLflow's REST API that is needed here."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        variables = {**os.environ, **credentials(uri)}
        user = parts.username or variables.get("MLFLOW_TRACKING_USERNAME")
        password = parts.password or variables.get("MLFLOW_TRACKING_PASSWORD")
        self._base = redact_credentials(uri).rstrip("/")
        self._authorization = ""
        if user and password:
            encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
            self._authorization = f"Basic {encoded}"
        elif token := variables.get("MLFLOW_TRACKING_TOKEN"):
            self._authorization = f"Bearer {token}"

    def get_version(self, reference: dict[str, str]) -> tuple[str, str, dict[str, str]]:
        endpoint = "registered-models/alias" if "alias" in reference else "model-versions/get"
        version = self._get(endpoint, reference)["model_version"]
        tags = {tag["key"]: tag["value"] for tag in version.get("tags", [])}
        return version["run_id"], version["version"], tags

    def download(self, run_id: str, name: str, target: Path) -> None:
        run = self._get("runs/get", {"run_id": run_id})["run"]
        root = urlsplit(run["info"]["artifact_uri"])
        if root.scheme == "mlflow-artifacts":
            folder = quote(root.path.strip("/"))
            path = f"api/2.0/mlflow-artifacts/artifacts/{folder}/model/{name}"
        else:  # the server reads from its storage
            path = f"get-artifact?{urlencode({'path': f'model/{name}', 'run_uuid': run_id})}"
        with self._open(path) as response, target.open("wb") as file:
            shutil.copyfileobj(response, file)

    def _get(self, endpoint: str, query: dict[str, str]) -> Any:
        with self._open(f"api/2.0/mlflow/{endpoint}?{urlencode(query)}") as response:
            return json.load(response)

    def _open(self, path: str) -> Any:
        # The scheme is http or https: is_remote has checked it.
        request = urllib.request.Request(f"{self._base}/{path}")  # noqa: S310
        if self._authorization:  # only for this server, not where it redirects to
            request.add_unredirected_header("Authorization", self._authorization)
        try:
            return urllib.request.urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310
        except urllib.error.HTTPError as error:
            with error:
                body = error.read(2000).decode(errors="replace")
            message = f"{error.code} {error.reason}: {_reason(body)}"
            raise TrackingError(f"{self._base}: {message}") from None


class _DatabaseClient:
    """MLflow's own client, for addresses that aren't servers."""

    def __init__(self, uri: str) -> None:
        try:
            import mlflow
        except ImportError:
            raise TrackingError(
                f"{uri} is no server, and reading it needs MLflow: pip install mlflow, or set the "
                "address of a server"
            ) from None
        self._client = mlflow.MlflowClient(uri, uri)

    def get_version(self, reference: dict[str, str]) -> tuple[str, str, dict[str, str]]:
        if "alias" in reference:
            version = self._client.get_model_version_by_alias(**reference)
        else:
            version = self._client.get_model_version(**reference)
        return str(version.run_id), str(version.version), version.tags

    def download(self, run_id: str, name: str, target: Path) -> None:
        with tempfile.TemporaryDirectory() as temp_dir:
            path = self._client.download_artifacts(run_id, f"model/{name}", temp_dir)
            shutil.copyfile(path, target)


def _reason(body: str) -> str:
    try:
        return str(json.loads(body)["message"])[:200]
    except (ValueError, KeyError, TypeError):
        return "no reason given"
