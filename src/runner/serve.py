"""Predict over HTTP: `python -m runner.serve run=<run> [host=127.0.0.1] [port=8000]`."""

import logging
import signal
from collections.abc import Sequence

from runner.runs.server import limits
from runner.runs.server.listening import bind, listen
from runner.saved.folds import find_folds
from runner.saved.run import find
from runner.util import program
from runner.util.options import is_true, required_option, run_with_options
from runner.util.stopping import INTERRUPT

log = logging.getLogger("runner")

USAGE = (
    "python -m runner.serve run=<run dir or MLflow run id> [key=value ...]:\n"
    "predictions of a run's best weights over HTTP, with a page to try them."
)
OPTIONS = {
    "run": "the run, or a sweep over folds: its folder, or its MLflow run id",
    "host": "the address to listen on, 127.0.0.1 by default: this machine alone; 0.0.0.0 is everybody",
    "port": "the port to listen on, 8000 by default; 0 is a free one",
    "device": "where to compute: auto (the default), cpu, cuda, mps, xpu, ...",
    "tracking.uri": "the MLflow store that knows the run; by default that of the outputs folder",
    **limits.OPTIONS,
    "runner.quiet": "true: print warnings only",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal; return 0, or 2 for a wrong argument."""
    return run_with_options(argv, USAGE, OPTIONS, _main)


def _main(options: dict[str, str]) -> int:
    from runner.util import terminal

    terminal.configure_logging(is_true(options, "runner.quiet"))
    allowed = limits.read_limits(options)
    named, uri = required_option(options, "run", "folder or MLflow run id"), options.get("tracking.uri")
    host, device = options.get("host", "127.0.0.1"), options.get("device", "auto")
    with bind(host, options.get("port", "8000")) as listener:
        folds = find_folds(named, "run", uri)
        run = folds.members[0] if folds is not None else find(named, "run", uri)
        from runner.runs.folds_predictor import FoldsPredictor
        from runner.runs.predictor import Predictor
        from runner.runs.server.app import PATH, Server
        from runner.runs.server.description import about_run

        predictor = FoldsPredictor(folds, device) if folds is not None else Predictor(run, device)
        server = Server(predictor, allowed, about_run(run, predictor))
        port = listener.getsockname()[1]
        base = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        log.info("weights    %s", predictor.source)
        log.info("page       %s/", base)
        log.info("requests   POST %s%s (Ctrl+C ends it)", base, PATH)
        if not host.startswith("127.") and host not in ("localhost", "::1"):
            log.warning("note       everybody who reaches this machine on port %d can use the model", port)
        try:
            listen(server.app, listener, allowed.timeout)
        except KeyboardInterrupt:
            if INTERRUPT.signal not in (signal.SIGINT, signal.SIGTERM):
                raise
            INTERRUPT.take()  # the way to end it
        finally:
            server.close()
        log.info("served     %s requests, and refused %s", f"{server.served:,}", f"{server.refused:,}")
    return 0


if __name__ == "__main__":
    program.run(main)
