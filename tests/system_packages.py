"""Install what the tests need beside Python packages: a browser, and servers that sources of metrics are tried on.

Run as ``python -m tests.system_packages`` before the tests; it prints what is missing, which tests will be skipped
for it, and how to get it. Only Chromium changes the system, and only as root. Servers of others are unpacked below
``.cache``, where no service of theirs ever starts; engines that are Python packages get an environment of their own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["ENGINES", "ROOT", "SERVERS", "engines_python", "environment", "program"]

ROOT = Path(__file__).resolve().parents[1]
SERVERS = ROOT / ".cache" / "servers"
ENGINES = ROOT / ".venv-engines"
LOCK = ROOT / "tests" / "engines" / "requirements.lock"

# Debian's packages by what their programs are for, with the libraries that not every machine has.
PACKAGES = ("prometheus", "mariadb-server-core", "libaio1", "libnuma1", "libssl3", "liburing2")
PROGRAMS = ("prometheus", "promtool", "mariadbd")
# A slow index costs some tests, not the whole run.
STEP_TIMEOUT_S = 180


def main() -> None:
    """Fetch what is missing; only a browser that root cannot have is an error."""
    # The engines come from another place than Debian's packages: both are waited for at once.
    engines = _begin_engines()
    try:
        _install_chromium()
        _unpack_servers()
    finally:
        _end_engines(engines)


def program(name: str) -> str | None:
    """Where one of ``PROGRAMS`` is: the machine's own, else ours; None when it is nowhere."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", *_folders()]))


def engines_python() -> Path | None:
    """The interpreter of the engines' environment; None when it is not installed as locked."""
    stamp = ENGINES / ".installed"
    return ENGINES / "bin" / "python" if stamp.is_file() and stamp.read_text() == _locked() else None


def environment(servers: Path = SERVERS) -> dict[str, str]:
    """Of a program that may have been unpacked beside its libraries."""
    folders = (
        [str(found) for found in (servers / "usr" / "lib").glob("*-linux-gnu*")] if servers.exists() else []
    )
    return os.environ | ({"LD_LIBRARY_PATH": os.pathsep.join(folders)} if folders else {})


def _folders() -> list[str]:
    return [str(SERVERS / "usr" / "bin"), str(SERVERS / "usr" / "sbin")]


def _locked() -> str:
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()


def _install_chromium() -> None:
    if any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        own = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "-qq", "update"], env=own, check=True)
        subprocess.run(
            ["apt-get", "-qq", "install", "-y", "--no-install-recommends", "chromium"],
            env=own,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return
    _say("Chromium is missing: the browser tests will be skipped. Install it with your package manager.")


def _unpack_servers() -> None:
    missing = [name for name in PROGRAMS if program(name) is None]
    if not missing:
        return
    said = "there is no apt-get"
    if shutil.which("apt-get") and shutil.which("dpkg-deb"):
        said = _unpack()
        missing = [name for name in PROGRAMS if program(name) is None]
    if missing:
        _say(
            f"{', '.join(missing)} missing ({said}): the tests of sources that ask MariaDB and Prometheus will be "
            "skipped. Install them with your package manager."
        )


def _unpack() -> str:
    """Download and unpack; what went wrong, in a few words."""
    SERVERS.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SERVERS.parent) as folder:
        download = ["apt-get", "-qq", "download", *PACKAGES]
        done = _run(download, Path(folder))
        if done is not None and os.geteuid() == 0:
            # Where Chromium was there already, nobody has asked yet what there is.
            done = _run(["apt-get", "-qq", "update"], Path(folder)) or _run(download, Path(folder))
        made = Path(folder) / "made"
        for package in sorted(Path(folder).glob("*.deb")):
            done = done or _run(["dpkg-deb", "-x", str(package), str(made)], Path(folder))
        for name in ("usr/sbin/mariadbd", "usr/bin/prometheus"):
            done = done or _run([str(made / name), "--version"], Path(folder), environment(made))
        if done is None:
            shutil.rmtree(SERVERS, ignore_errors=True)
            made.rename(SERVERS)
    return done or "they are incomplete"


def _begin_engines() -> subprocess.Popen[bytes] | None:
    if engines_python() is not None:
        return None
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        return None
    made = _run([str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(ENGINES)], ROOT)
    if made is not None:
        return None
    command = [
        str(uv),
        "pip",
        "sync",
        "--quiet",
        "--require-hashes",
        "--python",
        str(ENGINES / "bin" / "python"),
    ]
    return subprocess.Popen([*command, str(LOCK)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _end_engines(installing: subprocess.Popen[bytes] | None) -> None:
    said = b""
    if installing is not None:
        try:
            _, said = installing.communicate(timeout=STEP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            installing.kill()
            _, said = installing.communicate()
        if installing.returncode == 0:
            (ENGINES / ".installed").write_text(_locked())
    if engines_python() is None:
        _say(
            "The engines of tests/engines are missing: the tests of sources that ask ClickHouse, Snowflake and S3 will "
            f"be skipped. {said.decode(errors='replace').strip()[-500:]}"
        )


def _run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> str | None:
    """What went wrong, None when nothing."""
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, timeout=STEP_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else done.stderr.decode(errors="replace").strip()[-300:]


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
