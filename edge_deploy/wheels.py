"""Collect what a machine without internet needs into one folder: wheels, install.sh, units, sample site file.

    python edge_deploy/wheels.py DIR [--machine aarch64] [--python 3.11]

The folder is for one kind of machine: DIR/TARGET says which, and install.sh refuses others. The lock files' markers
are resolved for that machine here, so that what lies beside the wheels are plain lists of name, version and hash:

    TARGET                    linux x86_64 3.11
    requirements-edge.txt     this package and what the edge daemon needs
    requirements-cloud.txt    that, and what ingest and its stores need
    plantbridge-*.whl         this checkout, built by the locked hatchling
    *.whl                     everything else, pip included (for a Python without ensurepip)
    install.sh, *.service, *.yaml
    SHA256SUMS                of every file above

Only wheels are taken: nothing is compiled on the target.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OLDEST_GLIBC, NEWEST_GLIBC = 17, 35  # manylinux2014 up to what Ubuntu 22.04 has; Debian 12 has 36


def entries(lock: Path) -> list[tuple[Requirement, list[str]]]:
    """Read a lock file: each requirement with its hashes."""
    text = re.sub(r"\\\n", " ", lock.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(Requirement(line.split("--hash")[0]), re.findall(r"--hash=\S+", line)) for line in lines]


def resolved(lock: Path, machine: str, python: str) -> str:
    """Give the lock's content for one kind of machine, without markers."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "platform_machine": machine,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "extra": "",
    }
    lines = []
    for requirement, hashes in entries(lock):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            lines.append(" \\\n    ".join([f"{requirement.name}{requirement.specifier}", *hashes]))
    return "\n".join(lines) + "\n"


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def collect(folder: Path, machine: str, python: str) -> None:
    """Fill the folder anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(NEWEST_GLIBC, OLDEST_GLIBC - 1, -1)]
    tags += [f"manylinux2014_{machine}", f"linux_{machine}"]
    for name in ("edge", "cloud"):
        requirements = folder / f"requirements-{name}.txt"
        requirements.write_text(resolved(HERE / f"{name}.lock", machine, python))
        pip(
            *("download", "--no-deps", "--require-hashes", "--only-binary", ":all:"),
            *(part for tag in tags for part in ("--platform", tag)),
            *("--implementation", "cp", "--python-version", python),
            *("--dest", str(folder), "--requirement", str(requirements)),
        )
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT))
    (own,) = folder.glob("plantbridge-*.whl")
    pin = f"plantbridge=={own.name.split('-')[1]} \\\n    --hash=sha256:{digest(own)}\n"
    for name in ("edge", "cloud"):
        with (folder / f"requirements-{name}.txt").open("a") as file:
            file.write(pin)
    for source in (HERE / "install.sh", HERE / "site.yaml", HERE / "cloud.yaml", *HERE.glob("*.service")):
        shutil.copy2(source, folder)
    (folder / "TARGET").write_text(f"linux {machine} {python}\n")
    files = sorted(path for path in folder.iterdir() if path.name != "SHA256SUMS")
    (folder / "SHA256SUMS").write_text("".join(f"{digest(path)}  {path.name}\n" for path in files))


def main() -> None:
    parser = argparse.ArgumentParser(description="Collect wheels for a machine without internet.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--machine", default=platform.machine(), choices=["x86_64", "aarch64"])
    parser.add_argument("--python", default=".".join(platform.python_version_tuple()[:2]), help="such as 3.11")
    options = parser.parse_args()
    collect(options.folder, options.machine, options.python)
    size = sum(path.stat().st_size for path in options.folder.iterdir()) / 1e6
    print(f"wheels: {options.folder} for linux {options.machine}, Python {options.python}: {size:.0f} MB")
    print(f"wheels: carry it over, then: sudo sh {options.folder.name}/install.sh")


if __name__ == "__main__":
    main()
