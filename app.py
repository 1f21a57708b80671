"""Serve the trained model: a page for people and JSON for programs."""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnClassifier.config.configuration import ConfigurationManager

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and serve until stopped; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, default=Path("config/config.yaml"), help="where things live"
    )
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="how the model learns"
    )
    parser.add_argument(
        "--host", help="address to listen on; 0.0.0.0 for all (default: from the configuration)"
    )
    parser.add_argument(
        "--port", type=_port, help="port to listen on; 0 for any (default: from the configuration)"
    )
    parser.add_argument(
        "--model",
        help="models:/NAME@ALIAS, runs:/ID, a folder, or the URL of a bundle's zip (default: what training left)",
    )
    parser.add_argument("--model-sha256", metavar="HEX", help="sha256 that the zip must have")
    parser.add_argument(
        "--new-token",
        metavar="NAME",
        help="print a new token and its entry for API_TOKENS, and end",
    )
    parser.add_argument(
        "--may-train", action="store_true", help="with --new-token: it may start trainings"
    )
    chosen = parser.parse_args(arguments)

    from cnnClassifier.utils.errors import UserError

    try:
        _print_token(chosen) if chosen.new_token is not None else _serve(chosen)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError("expected a whole number from 0 to 65535")
    return int(text)


def _print_token(chosen: argparse.Namespace) -> None:
    from cnnClassifier.serving.tokens import new_token

    token, entry = new_token(chosen.new_token, chosen.may_train)
    print(f"Give this token to whoever shall use it; it is shown this once:\n  {token}")
    print(
        f"Start the server with this entry in API_TOKENS, beside those that stand there:\n  {entry}"
    )


def _serve(chosen: argparse.Namespace) -> None:
    from cnnClassifier.config.configuration import ConfigurationManager
    from cnnClassifier.serving.app import create_app
    from cnnClassifier.serving.model_manager import ModelManager
    from cnnClassifier.serving.server import bind, is_public, serve, share_memory, url_of
    from cnnClassifier.serving.tokens import VARIABLE, read_tokens
    from cnnClassifier.serving.training_jobs import Jobs
    from cnnClassifier.utils.log import configure_logging

    # Until serve() takes over: as a container's first process it would not be heard otherwise.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    share_memory()
    manager = ConfigurationManager(chosen.config, chosen.params)
    config = manager.serving()
    given = {
        name: value for name in ("host", "port") if (value := getattr(chosen, name)) is not None
    }
    config = config.model_copy(update=given)
    tokens = read_tokens(os.environ.get(VARIABLE, ""))
    listener = bind(config.host, config.port)
    configure_logging(manager.log_file, or_terminal=True)
    if chosen.model:
        config = config.model_copy(update={"bundle_dir": _bundle_of(chosen, manager)})
    print(
        f"Open {url_of(listener)} (Ctrl-C stops it). {_model_line(config.bundle_dir)}", flush=True
    )
    if is_public(listener) and not tokens:
        print(
            f"warning: whoever reaches {config.host} may use this server; set {VARIABLE} to let in only those with a "
            "token (python app.py --new-token NAME)",
            file=sys.stderr,
        )
    host = ModelManager.of(config)
    host.start()
    jobs = Jobs(Path.cwd(), manager.log_file.parent / "jobs")
    try:
        serve(create_app(config, host, tokens, jobs), listener, config)
    finally:
        jobs.stop()


def _bundle_of(chosen: argparse.Namespace, manager: "ConfigurationManager") -> Path:
    """Return the folder of the wanted model; a zip, a run or a registered model is fetched, an alias followed."""
    from cnnClassifier.serving.model_download import fetch_bundle
    from cnnClassifier.tracking.connection import TrackingError
    from cnnClassifier.tracking.model_poller import SCHEMES, ModelPoller

    if chosen.model.startswith(("http://", "https://")):
        return fetch_bundle(chosen.model, chosen.model_sha256)
    if not chosen.model.startswith(SCHEMES):
        return Path(chosen.model)
    config = manager.serving()
    follower = ModelPoller(chosen.model, manager.tracking().uri, config.model_cache)
    try:
        follower.fetch()
    except TrackingError as error:
        print(f"{error}; it is asked for every {config.model_poll_interval_s:g} s", file=sys.stderr)
    follower.follow(config.model_poll_interval_s)
    return follower.folder


def _model_line(bundle_dir: Path) -> str:
    from cnnClassifier.entity.bundle import ModelBundle
    from cnnClassifier.utils.errors import BundleError

    try:
        bundle = ModelBundle.read(bundle_dir)
    except BundleError:
        return "There is no model to serve yet: run `make pipeline` or `python main.py`, it will be taken up."
    data = "synthetic images" if bundle.synthetic else "images"
    labels = ", ".join(bundle.label(name) for name in bundle.classes)
    return f"Model {bundle.model_id}: {bundle.backbone}, trained on {data} of {labels}."


if __name__ == "__main__":
    sys.exit(main())
