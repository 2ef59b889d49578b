"""Writes what is made from the models: the CustomResourceDefinitions, the page of all fields, and what Kustomize needs.

Without options it writes, from the root of the repository, all that is committed (`make generate`). With `--check` it
writes nothing, prints how the files differ and exits with 1 if they do (`make verify`).
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from penstock.api import kustomize
from penstock.api.crd import KINDS, render
from penstock.api.reference import manifests

_SOURCE: Final = Path("operator/penstock/api")
_FOLDERS: Final = (Path("crds"), Path("charts/penstock/crds"))
_PAGE: Final = Path("docs/reference/manifests.md")
_KUSTOMIZE: Final = Path("examples/gitops/base/kustomize/openapi.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes or checks the generated files.

    Returns:
        The exit code: 0, or 1 if `--check` found a difference or a file could not be read or written.
    """
    parser = argparse.ArgumentParser(prog="python -m penstock.api", description="Write what is made from the models.")
    parser.add_argument(
        "--output", metavar="DIR", type=Path, action="append", default=[], help="folder for the CRDs; may be repeated"
    )
    parser.add_argument("--reference", metavar="FILE", type=Path, help="Markdown page with all fields")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is not up to date")
    parser.add_argument("--kustomize", metavar="FILE", type=Path, help="OpenAPI document for Kustomize")
    options = parser.parse_args(arguments)
    if not options.output and options.reference is None and options.kustomize is None:
        if not _SOURCE.is_dir():
            parser.error(f"there is no {_SOURCE} here: run it in the root of the repository, or give --output DIR")
        options.output, options.reference, options.kustomize = _FOLDERS, _PAGE, _KUSTOMIZE
    wanted = {folder / f"{of.plural}.yaml": render(kind) for folder in options.output for kind, of in KINDS.items()}
    if options.reference is not None:
        wanted[options.reference] = manifests()
    if options.kustomize is not None:
        wanted[options.kustomize] = kustomize.render()
    try:
        if options.check:
            return _check(wanted, options.output)
        for path, text in wanted.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        sys.stderr.write(f"error: {error.filename}: {error.strerror}\n")
        return 1
    return 0


def _check(wanted: Mapping[Path, str], folders: Sequence[Path]) -> int:
    differences: list[str] = []
    for path, text in wanted.items():
        found = path.read_text(encoding="utf-8") if path.exists() else ""
        differences += difflib.unified_diff(
            found.splitlines(keepends=True), text.splitlines(keepends=True), f"{path} (found)", f"{path} (made)"
        )
    surplus = [path for folder in folders for path in sorted(folder.glob("*.yaml")) if path not in wanted]
    differences += [f"{path}: no model makes this file: remove it\n" for path in surplus]
    if not differences:
        return 0
    sys.stdout.writelines(differences)
    sys.stderr.write("error: generated files are not up to date with the models: run `make generate`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
