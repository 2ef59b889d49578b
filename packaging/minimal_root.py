"""Collects what a virtual environment needs of the system around it, so that the image has nothing else of its base.

`python3 minimal_root.py ROOT VENV` fills the folder ROOT: the interpreter, the standard library with its byte code,
the shared libraries of all of them, certificates, time zones, and the few files of /etc that the C library reads. The
environment itself is copied by the Dockerfile. No shell, no package manager.
"""

from __future__ import annotations

import compileall
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

# Parts of the standard library that nobody runs in a container, and what installs packages.
UNUSED = (
    *("test", "tests", "idlelib", "idle_test", "tkinter", "turtledemo", "turtle.py", "lib2to3", "ensurepip"),
    *("pydoc_data", "site-packages", "dist-packages", "__pycache__", "config-*"),
    *("_test*.so", "_tkinter*.so", "_dbm*.so"),
)
# Which of them are there differs between bases.
SETTINGS = (
    *("/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/openssl.cnf", "/usr/lib/ssl/openssl.cnf"),
    *("/etc/ld.so.cache", "/etc/nsswitch.conf", "/etc/os-release", "/etc/passwd", "/etc/group"),
)
ZONES = Path("/usr/share/zoneinfo")


def merged_folders(root: Path) -> None:
    """Make /bin, /lib and their like links into /usr where they are in the base."""
    for folder in Path("/").iterdir():
        if folder.is_symlink() and folder.name.startswith(("bin", "lib", "sbin")):
            (root / folder.name).symlink_to(folder.readlink())


def take(root: Path, path: Path) -> None:
    """Copy a file under its own name, whatever it is a link to."""
    place = root / path.parent.resolve().relative_to("/") / path.name
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, place)


def libraries(programs: list[Path]) -> set[Path]:
    """The shared libraries that programs and libraries load when they start, and the loader."""
    # It fails where one of the files needs no others.
    said = subprocess.run(["ldd", *programs], stdout=subprocess.PIPE, text=True, check=False).stdout
    if missing := re.findall(r"(\S+) => not found", said):
        sys.exit(f"shared libraries that the base does not have: {', '.join(sorted(set(missing)))}")
    return {Path(found) for found in re.findall(r"^\s+(?:\S+ => )?(/\S+) \(0x", said, re.MULTILINE)}


def main() -> None:
    """Fill the folder that the command line names."""
    root, venv = (Path(word) for word in sys.argv[1:])
    root.mkdir(parents=True)
    merged_folders(root)
    interpreter = (venv / "bin" / "python3").readlink()
    take(root, interpreter)
    source = Path(sysconfig.get_path("stdlib"))
    library = root / source.relative_to("/")
    shutil.copytree(source, library, ignore=shutil.ignore_patterns(*UNUSED), ignore_dangling_symlinks=True)
    programs = [interpreter, *library.rglob("*.so"), *venv.rglob("*.so")]
    # Wheels bring some libraries along, and those are in the environment already.
    for path in libraries(programs) - set(venv.rglob("*.so*")):
        take(root, path)
    for path in map(Path, SETTINGS):
        if path.is_file():
            take(root, path)
    if not ZONES.is_dir():
        sys.exit(f"the base has no time zones in {ZONES}: install its package tzdata")
    shutil.copytree(
        ZONES, root / ZONES.relative_to("/"), symlinks=True, ignore=shutil.ignore_patterns("right", "posix")
    )
    (root / "tmp").mkdir(mode=0o1777)
    (root / "tmp").chmod(0o1777)
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    if not compileall.compile_dir(library, quiet=1, stripdir=str(root), invalidation_mode=unchecked):
        sys.exit("the standard library does not compile")


main()
