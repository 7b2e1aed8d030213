"""``estimator page``: the estimator in a browser, from this machine."""

from __future__ import annotations

import argparse
import tempfile
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from .tables import show


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="write the page's folder, for any static host")
    parser.add_argument("--port", type=int, default=0, help="a port of the loopback (default: any free one)")
    parser.add_argument("--no-browser", action="store_true", help="print the address, and open nothing")


def execute(args: argparse.Namespace) -> int:
    """Write the page, or serve it until Ctrl-C."""
    from ..page import build, serve

    if args.output is not None:
        build.write(args.output)
        show(f"page written to {args.output}: {build.compressed(args.output) / 1e6:.1f} MB compressed")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        build.write(Path(folder))
        with serve.server(Path(folder), args.port) as server:
            address = f"http://127.0.0.1:{server.server_port}/"
            show(f"{address} (Ctrl-C ends it)")
            if not args.no_browser:
                webbrowser.open(address)
            server.serve_forever()
    return 0
