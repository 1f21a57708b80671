"""Serve the trained model: a page for people and JSON for programs."""

import argparse
import logging
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
    args = _parse_arguments(arguments)
    from cnnClassifier.utils.errors import UserError

    try:
        if args.new_token is None:
            _serve(args)
        else:
            _print_new_token(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--config", type=Path, default=Path("config/config.yaml"), help="paths and limits")
    add("--params", type=Path, default=Path("params.yaml"), help="hyperparameters")
    add("--host", help="address to listen on; 0.0.0.0 for all (default: from the configuration)")
    add("--port", type=_port, help="port; 0 for any free one (default: from the configuration)")
    add(
        "--model",
        help="models:/NAME@ALIAS, runs:/ID, a folder, or the URL of a bundle's zip "
        "(default: the output of training)",
    )
    add("--model-sha256", metavar="HEX", help="expected sha256 of the zip")
    add("--compare", metavar="MODEL", help="a candidate, as --model: /predict compares both")
    add("--compare-sha256", metavar="HEX", help="expected sha256 of the candidate's zip")
    add("--new-token", metavar="NAME", help="print a new token and its API_TOKENS entry, and exit")
    add("--may-train", action="store_true", help="with --new-token: it may start trainings")
    add("--may-give-feedback", action="store_true", help="with --new-token: it may give feedback")
    return parser.parse_args(arguments)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError("expected a whole number from 0 to 65535")
    return int(text)


def _print_new_token(args: argparse.Namespace) -> None:
    from cnnClassifier.serving.auth import create_token

    token, entry = create_token(args.new_token, args.may_train, args.may_give_feedback)
    print(f"Token for the user; it is shown only once:\n  {token}")
    print(f"Add this entry to API_TOKENS and restart the server:\n  {entry}")


def _serve(args: argparse.Namespace) -> None:
    from cnnClassifier.config.configuration import ConfigurationManager
    from cnnClassifier.serving.app import create_app
    from cnnClassifier.serving.auth import TOKENS_VARIABLE, parse_tokens
    from cnnClassifier.serving.model_manager import ModelManager
    from cnnClassifier.serving.server import bind, is_public, serve, url_of
    from cnnClassifier.serving.training_jobs import TrainingJobs
    from cnnClassifier.utils.log import configure_logging
    from cnnClassifier.utils.memory import limit_malloc

    # Until serve() takes over: the first process of a container ignores SIGTERM otherwise.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    limit_malloc()
    configuration = ConfigurationManager(args.config, args.params)
    config = configuration.serving()
    host = config.host if args.host is None else args.host
    port = config.port if args.port is None else args.port
    tokens = parse_tokens(os.environ.get(TOKENS_VARIABLE, ""))
    listener = bind(host, port)
    configure_logging(configuration.log_file, or_terminal=True)
    bundle_dir = config.bundle_dir
    if args.model:
        bundle_dir = _bundle_dir(args.model, args.model_sha256, configuration)
    config = config.model_copy(update={"host": host, "port": port, "bundle_dir": bundle_dir})
    candidate = None
    if args.compare:
        candidate_dir = _bundle_dir(args.compare, args.compare_sha256, configuration)
        candidate = ModelManager(config.model_copy(update={"bundle_dir": candidate_dir}))
    print(f"Open {url_of(listener)} (Ctrl-C stops it).", flush=True)
    if is_public(listener) and not tokens:
        print(
            f"warning: everyone who can reach {host} can use this server; set {TOKENS_VARIABLE} "
            "to require a token (python app.py --new-token NAME)",
            file=sys.stderr,
        )
    manager = ModelManager(config)
    manager.start()
    if candidate:
        candidate.start()
    jobs = TrainingJobs(Path.cwd(), configuration.log_file.parent / "jobs")
    unanswered = 0
    try:
        app = create_app(config, manager, tokens, jobs, candidate)
        unanswered = serve(app, listener, config)
    finally:
        jobs.stop()
    if unanswered or manager.is_loading or (candidate and candidate.is_loading):
        # A thread that is still in native code would abort the process at a normal exit.
        logging.shutdown()
        os._exit(0)


def _bundle_dir(model: str, sha256: str | None, configuration: "ConfigurationManager") -> Path:
    """Return the folder of the requested model; download it and follow an alias if necessary."""
    from cnnClassifier.serving.model_download import download_bundle
    from cnnClassifier.tracking.connection import TrackingError
    from cnnClassifier.tracking.model_poller import SCHEMES, ModelPoller

    if model.startswith(("http://", "https://")):
        return download_bundle(model, sha256)
    if not model.startswith(SCHEMES):
        return Path(model)
    config = configuration.serving()
    poller = ModelPoller(model, configuration.tracking().uri, config.model_cache)
    try:
        poller.fetch()
    except TrackingError as error:
        print(f"{error}; retried every {config.model_poll_interval_s:g} s", file=sys.stderr)
    poller.follow(config.model_poll_interval_s)
    return poller.folder


if __name__ == "__main__":
    sys.exit(main())
