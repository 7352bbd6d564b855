"""Runs one server process and ends it when its owner says so, or is gone.

A script of its own, started by :mod:`tenantry.testing.process`; standard library only::

    keeper.py DIRECTORY SIGNAL UID GID COMMAND...

The owner holds the other end of standard input. Whether it writes to it, closes it, crashes
or is killed, the read below returns, so that no server and no directory outlives its owner.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

PATIENCE_SECONDS = 20.0
"""How long a server may take to stop by itself before it is killed."""


def main(directory: Path, stop_signal: int, uid: int, gid: int, command: list[str]) -> None:
    other_user = uid != os.getuid()
    with (directory / "log").open("ab") as log:
        child = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            user=uid if other_user else None,
            group=gid if other_user else None,
            extra_groups=[] if other_user else None,
        )

    def note_exit() -> None:
        code = child.wait()
        if directory.exists():
            (directory / "exited").write_text(str(code))

    # A server that ends by itself leaves a note, for its owner may still be waiting for it.
    watcher = threading.Thread(target=note_exit, daemon=True)
    watcher.start()

    sys.stdin.buffer.read(1)
    if child.poll() is None:
        child.send_signal(stop_signal)
        watcher.join(PATIENCE_SECONDS)
        if watcher.is_alive():
            child.kill()
    watcher.join()
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
