"""A PostgreSQL server of the tests' own, from Debian's package, in a temporary folder and on a socket there."""

import glob
import os
import pwd
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

BINARIES = max(glob.glob("/usr/lib/postgresql/*/bin"), default=None)


@contextmanager
def server():
    """Start a server; yields its database URL."""
    assert BINARIES
    # The server refuses to run as root; its socket's path has to be short.
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    with tempfile.TemporaryDirectory(prefix="rlrs-pg", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if os.getuid() == 0:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)

        def run(*command):
            subprocess.run(
                command, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )

        data = folder / "data"
        run(f"{BINARIES}/initdb", "-D", str(data), "-A", "trust", "-U", "rlrs", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        run(f"{BINARIES}/pg_ctl", "-D", str(data), "-w", "-o", options, "-l", str(folder / "log"), "start")
        try:
            yield f"postgresql+psycopg://rlrs@/postgres?host={folder}"
        finally:
            run(f"{BINARIES}/pg_ctl", "-D", str(data), "-m", "immediate", "stop")
