"""Builds the site of docs/ into site/: strictly, whole or not at all.

A link that leads nowhere, a public name or parameter without a description, and an example that does not fit its
signature each stop it.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import io
import shutil
import sys
import tempfile
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.console import nocolor

from tools.site_parts.examples import wrong_examples
from tools.site_parts.stage import Stage

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MARK = ".caffe-split-site"  # in every folder that was made here; no other folder is replaced


def build(root: Path, out: Path) -> str:
    """Build the site of the checkout `root` into the folder `out`; returns the warnings, empty where all is well."""
    problems = wrong_examples(root)
    if problems:
        return "".join(f"{problem}\n" for problem in problems)
    warnings = io.StringIO()
    with tempfile.TemporaryDirectory(prefix="caffe-split-site-") as work:
        pages, made = Path(work, "pages"), Path(work, "site")
        Stage(root, pages).all()
        # Nothing is kept between two builds: what Sphinx thinks unchanged would hide a signature that changed.
        nocolor()
        app = Sphinx(pages, HERE, made, Path(work, "doctrees"), "html", status=None, warning=warnings)
        app.build()
        for left in (".buildinfo", "objects.inv"):
            (made / left).unlink(missing_ok=True)
        if not warnings.getvalue():
            (made / MARK).touch()
            if out.exists():
                shutil.rmtree(out)
            shutil.move(made, out)
    return warnings.getvalue().replace(f"{pages}/", "")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tools/docs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "site", help="the site's folder, replaced by the new one")
    parser.add_argument("--serve", action="store_true", help="show it at http://127.0.0.1:PORT until Ctrl-C")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--check", action="store_true", help="build it and throw it away")
    asked = parser.parse_args()
    if asked.check:
        with tempfile.TemporaryDirectory() as folder:
            return report(build(ROOT, Path(folder, "site")))
    if asked.out.exists() and not (asked.out / MARK).exists():
        parser.error(f"{asked.out} exists and is no site of ours: name another folder by --out")
    if report(build(ROOT, asked.out)):
        return 1
    print(f"built {asked.out / 'index.html'}")
    if asked.serve:
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(asked.out))
        with http.server.ThreadingHTTPServer(("127.0.0.1", asked.port), handler) as server:
            print(f"http://127.0.0.1:{server.server_port}   (Ctrl-C ends it)")
            server.serve_forever()
    return 0


def report(warnings: str) -> int:
    """Print what is wrong, if anything; the exit status."""
    if not warnings:
        return 0
    print(warnings, end="", file=sys.stderr)
    print("tools/docs: the site was not built: mend what is named above", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
