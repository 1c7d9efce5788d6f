"""A PostgreSQL server for a test, which can be stopped hard and started again."""

import importlib.util
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from helpers.servers import free_port

_DEBIAN = Path("/usr/lib/postgresql")


def missing() -> str | None:
    """Describe what the tests need and is not installed, with the command to install it; None if nothing is missing."""
    if _program("pg_ctl") is None:
        return "needs PostgreSQL: apt-get install postgresql"
    if importlib.util.find_spec("psycopg") is None:
        return "needs psycopg: pip install 'psycopg[binary]'"
    return None


def _program(name: str) -> str | None:
    paths = sorted(_DEBIAN.glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(paths[-1]) if paths else None)


class Postgres:
    """Listens on 127.0.0.1; its user is ada, her password lovelace-1815.

    Args:
        folder: the folder of its data. Its user needs access, so a private folder of pytest does not work.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.address = f"postgresql://ada@127.0.0.1:{self.port}/postgres"
        self.with_password = self.address.replace("ada", "ada:lovelace-1815")
        password = folder / "password"
        password.write_text("lovelace-1815\n")
        if os.getuid() == 0:  # the server does not run as root
            shutil.chown(folder, "postgres")
            shutil.chown(password, "postgres")
        self._run("initdb", "-U", "ada", "-A", "scram-sha-256", "--pwfile", str(password))

    def _run(self, name: str, *arguments: str) -> None:
        program = _program(name)
        assert program is not None
        user = pwd.getpwnam("postgres").pw_uid if os.getuid() == 0 else None
        command = [program, "-D", str(self.folder / "data"), *arguments]
        subprocess.run(command, check=True, user=user, cwd=self.folder, stdout=subprocess.DEVNULL, timeout=60)

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        self._run("pg_ctl", "-o", options, "-l", str(self.folder / "log"), "-w", "start")

    def stop(self) -> None:
        """Stop the server hard: connections are cut, and nothing is written back."""
        self._run("pg_ctl", "-m", "immediate", "stop")

    def add_database(self, name: str) -> str:
        """Create another database while the server runs, and return its address, with the password."""
        import psycopg  # late: it may be missing, which skips the tests

        with psycopg.connect(self.with_password, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.with_password.removesuffix("postgres") + name

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Suspend the server: it accepts connections, and does not answer."""
        server = psutil.Process(int((self.folder / "data" / "postmaster.pid").read_text().split()[0]))
        processes = [server, *server.children(recursive=True)]
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in reversed(processes):
                process.resume()
