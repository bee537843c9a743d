"""A real node for tests: started on a free port, known to be ready by its ready line, killed at the end.

The binary is that of the build: IRIS_BIN, else CARGO_TARGET_DIR or target, the debug build before the release build.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import unittest
from pathlib import Path
from typing import List, Optional

PATIENCE_S = 60.0
ROOT = Path(__file__).resolve().parents[3]


def binary() -> Optional[Path]:
    """The binary under test, or None if nothing was built."""
    named = os.environ.get("IRIS_BIN")
    if named:
        return Path(named)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    if not target.is_absolute():
        target = ROOT / target
    found = [target / profile / "iris" for profile in ("debug", "release")]
    return next((path for path in found if path.exists()), None)


class Node:
    """A running node. Its data outlives the process: `restart` starts another one on them."""

    def __init__(self, settings: str = "", executors: int = 2) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="iris-node-"))
        self.settings = settings
        self.port = 0
        self._log = open(self.directory / "log", "ab")
        self._start(executors)

    def _start(self, executors: int) -> None:
        program = binary()
        assert program is not None
        command: List[str] = [str(program), "serve", "--json", "--executors", str(executors)]
        # Clients come back to the address that they know: the first port is the kernel's choice, and it is kept.
        command += ["--listen", f"127.0.0.1:{self.port}", "--data", str(self.directory / "data")]
        if self.settings:
            (self.directory / "iris.ron").write_text(self.settings)
            command += ["--config", str(self.directory / "iris.ron")]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, stdin=subprocess.DEVNULL)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(PATIENCE_S)
            raise AssertionError(f"the node does not become ready: {(self.directory / 'log').read_text()}")
        ready = json.loads(line)
        assert ready["event"] == "ready" and ready["pid"] == self.process.pid, ready
        self.port = int(ready["listen"][0]["address"].rsplit(":", 1)[1])

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self._reap()

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def _reap(self) -> int:
        code = self.process.wait(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def restart(self, executors: int = 2) -> None:
        """Starts again, on the same data and the same port."""
        self._start(executors)

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        self._log.close()
        shutil.rmtree(self.directory, ignore_errors=True)


@unittest.skipIf(binary() is None, "no binary: run `cargo build` first, or name one in IRIS_BIN")
class NodeTest(unittest.TestCase):
    """A test with a node of its own; `settings` is its configuration."""

    settings = ""
    executors = 2

    def setUp(self) -> None:
        self.node = Node(self.settings, self.executors)
        self.addCleanup(self.node.close)
