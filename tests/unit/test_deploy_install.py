"""edge_deploy/install.sh, run for real below a directory, from a folder with a stand-in for the plantbridge wheel.

The stand-in makes each installation a second instead of ten; tests/e2e/test_deploy_wheels.py does it with the real one.
"""

from __future__ import annotations

import ensurepip
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "edge_deploy"

STAND_IN = """
import sys
def main():
    if sys.argv[1:2] == ["check"]:
        sys.exit(2 if "misspelt" in open(sys.argv[2]).read() else 0)
    print("plantbridge {version}")
"""


def wheel(folder: Path, version: str, body: str = STAND_IN) -> None:
    """Write a wheel of the stand-in: a zip with one module, one command and its metadata."""
    info = f"plantbridge-{version}.dist-info"
    files = {
        "stand_in.py": body.replace("{version}", version),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: plantbridge\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nplantbridge = stand_in:main\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"plantbridge-{version}-py3-none-any.whl", "w") as archive:
        for name, text in (files | {f"{info}/RECORD": record}).items():
            archive.writestr(name, text)


def folder_of_wheels(folder: Path, version: str, body: str = STAND_IN) -> Path:
    """Make what edge_deploy/wheels.py makes, with the stand-in and no dependencies."""
    folder.mkdir()
    for source in (*DEPLOY.glob("*.service"), DEPLOY / "install.sh", DEPLOY / "site.yaml", DEPLOY / "cloud.yaml"):
        shutil.copy(source, folder)
    bundled = next((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
    shutil.copy(bundled, folder)
    (folder / "TARGET").write_text(f"linux {platform.machine()} {sys.version_info[0]}.{sys.version_info[1]}\n")
    wheel(folder, version, body)
    pin = f"plantbridge=={version} --hash=sha256:{digest(next(folder.glob('plantbridge-*.whl')))}\n"
    (folder / "requirements-edge.txt").write_text(pin)
    (folder / "requirements-cloud.txt").write_text(pin)
    seal(folder)
    return folder


def seal(folder: Path) -> None:
    files = sorted(path for path in folder.iterdir() if path.name != "SHA256SUMS")
    (folder / "SHA256SUMS").write_text("".join(f"{digest(path)}  {path.name}\n" for path in files))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def install(folder: Path, root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", folder / "install.sh", "--root", root, "--python", sys.executable, *options],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"]},  # no HOME, no pip settings: as under sudo
        check=False,
    )


def current(root: Path) -> str:
    """What the installed command says."""
    done = subprocess.run([root / "usr/local/bin/plantbridge"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("folders")
    return {version: folder_of_wheels(directory / version, version) for version in ("1.0", "1.1")}


def test_it_installs_without_a_network_and_again_without_change(folders: dict[str, Path], tmp_path: Path) -> None:
    done = install(folders["1.0"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert current(tmp_path) == "plantbridge 1.0"
    assert (tmp_path / "etc/plantbridge/site.yaml").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "etc/plantbridge/environment").stat().st_mode & 0o777 == 0o600
    assert {path.name for path in (tmp_path / "etc/systemd/system").iterdir()} == {
        "plantbridge.service",
        "plantbridge-ingest.service",
    }
    before = (tmp_path / "opt/plantbridge/1.0/pyvenv.cfg").stat()
    again = install(folders["1.0"], tmp_path)
    assert again.returncode == 0, again.stderr
    assert "1.0 was current already" in again.stdout
    assert (tmp_path / "opt/plantbridge/1.0/pyvenv.cfg").stat() == before
    assert not (tmp_path / "opt/plantbridge/previous").is_symlink()


def test_an_upgrade_keeps_the_site_file_and_can_be_rolled_back(folders: dict[str, Path], tmp_path: Path) -> None:
    install(folders["1.0"], tmp_path)
    site = tmp_path / "etc/plantbridge/site.yaml"
    site.write_text("gateway: mine\n")
    assert install(folders["1.1"], tmp_path).returncode == 0
    assert current(tmp_path) == "plantbridge 1.1"
    assert site.read_text() == "gateway: mine\n"
    back = install(folders["1.1"], tmp_path, "--rollback")
    assert back.returncode == 0, back.stderr
    assert current(tmp_path) == "plantbridge 1.0"
    assert install(folders["1.1"], tmp_path, "--rollback").returncode == 0, "rolling back twice goes forward again"
    assert current(tmp_path) == "plantbridge 1.1"


def test_a_version_that_refuses_the_site_file_does_not_become_current(folders: dict[str, Path], tmp_path: Path) -> None:
    """The plant goes on being read by the old version; the technician sees the finding."""
    install(folders["1.0"], tmp_path)
    (tmp_path / "etc/plantbridge/site.yaml").write_text("misspelt: yes\n")
    refused = install(folders["1.1"], tmp_path)
    assert refused.returncode == 1
    assert "still on 1.0" in refused.stderr
    assert current(tmp_path) == "plantbridge 1.0"
    assert install(folders["1.1"], tmp_path, "--force").returncode == 0
    assert current(tmp_path) == "plantbridge 1.1"


def test_secrets_of_the_environment_file_are_there_for_the_check(tmp_path: Path) -> None:
    """`${env:NAME}` must resolve in the check as it will in the service, whatever characters the value has."""
    body = STAND_IN.replace("def main():", "import os\ndef main():").replace(
        '"misspelt" in open(sys.argv[2]).read()', 'os.environ.get("SECRET") != "a b$c&d"'
    )
    folder = folder_of_wheels(tmp_path / "folder", "1.0", body)
    root = tmp_path / "root"
    install(folder, root)
    (root / "etc/plantbridge/site.yaml").write_text("changed: yes\n")
    assert install(folder, root).returncode == 1
    (root / "etc/plantbridge/environment").write_text("# comment\nSECRET=a b$c&d\n")
    done = install(folder, root)
    assert done.returncode == 0, done.stderr


def test_a_damaged_folder_changes_nothing(folders: dict[str, Path], tmp_path: Path) -> None:
    """A file that the USB stick cut short is found before anything is installed."""
    folder = tmp_path / "folder"
    shutil.copytree(folders["1.1"], folder)
    root = tmp_path / "root"
    install(folders["1.0"], root)
    damaged = next(folder.glob("plantbridge-*.whl"))
    damaged.write_bytes(damaged.read_bytes()[:-10])
    done = install(folder, root)
    assert done.returncode == 1
    assert "damaged" in done.stderr
    assert current(root) == "plantbridge 1.0"


def test_a_version_that_does_not_start_changes_nothing(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folder_of_wheels(tmp_path / "folder", "2.0", "import nothing_of_that_name\n")
    root = tmp_path / "root"
    install(folders["1.0"], root)
    done = install(folder, root)
    assert done.returncode == 1
    assert "does not start" in done.stderr
    assert current(root) == "plantbridge 1.0"


def test_another_build_of_the_same_version_gets_its_own_directory(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folder_of_wheels(tmp_path / "folder", "1.0", STAND_IN.replace("plantbridge {", "plantbridge mended {"))
    root = tmp_path / "root"
    install(folders["1.0"], root)
    assert install(folder, root).returncode == 0
    assert current(root) == "plantbridge mended 1.0"
    assert install(folder, root, "--rollback").returncode == 0
    assert current(root) == "plantbridge 1.0"


def test_a_folder_for_another_machine_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(folders["1.0"], folder)
    (folder / "TARGET").write_text("linux riscv64 3.11\n")
    seal(folder)
    done = install(folder, tmp_path / "root")
    assert done.returncode == 1
    assert "this folder is for riscv64" in done.stderr


def test_old_versions_are_removed_but_never_the_one_before(folders: dict[str, Path], tmp_path: Path) -> None:
    """A gateway with a 16 GB card is upgraded for ten years."""
    install(folders["1.0"], tmp_path)
    for year, old in enumerate(("0.7", "0.8", "0.9")):
        shutil.copytree(tmp_path / "opt/plantbridge/1.0", tmp_path / "opt/plantbridge" / old, symlinks=True)
        os.utime(tmp_path / "opt/plantbridge" / old, (year, year))
    assert install(folders["1.1"], tmp_path).returncode == 0
    left = {path.name for path in (tmp_path / "opt/plantbridge").iterdir() if not path.is_symlink()}
    assert left == {"0.9", "1.0", "1.1"}
    assert install(folders["1.1"], tmp_path, "--rollback").returncode == 0
    assert current(tmp_path) == "plantbridge 1.0"


def test_removing_keeps_configuration_and_data_unless_asked(folders: dict[str, Path], tmp_path: Path) -> None:
    install(folders["1.0"], tmp_path)
    (tmp_path / "var/lib/plantbridge/journal").mkdir()
    assert install(folders["1.0"], tmp_path, "--uninstall").returncode == 0
    assert not (tmp_path / "opt/plantbridge").exists()
    assert not (tmp_path / "usr/local/bin/plantbridge").is_symlink()
    assert (tmp_path / "etc/plantbridge/site.yaml").exists()
    assert (tmp_path / "var/lib/plantbridge/journal").exists()
    assert install(folders["1.0"], tmp_path, "--uninstall", "--purge").returncode == 0
    assert not (tmp_path / "etc/plantbridge").exists()
    assert not (tmp_path / "var/lib/plantbridge").exists()


def test_help_and_wrong_options_are_answered(folders: dict[str, Path], tmp_path: Path) -> None:
    done = install(folders["1.0"], tmp_path, "--help")
    assert done.returncode == 0
    assert "--rollback" in done.stdout
    assert install(folders["1.0"], tmp_path, "--rolback").returncode == 1
