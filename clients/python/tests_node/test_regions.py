"""The seed's local simulation of three regions, with its own program: `scripts/geo` on an address of the test's own."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
import unittest
from pathlib import Path

from iris_client import IrisClient

from node import PATIENCE_S, ROOT, binary

REGIONS = ("tokyo", "frankfurt", "saopaulo")


@unittest.skipIf(binary() is None, "nothing was built")
class Regions(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="iris-geo-")
        self.addCleanup(directory.cleanup)
        self.host = f"127.{random.randint(2, 254)}.{random.randint(0, 255)}.{random.randint(2, 254)}"
        files = []
        for region in REGIONS:
            text = (ROOT / "conf" / f"{region}.ron").read_text().replace("127.0.0.1", self.host)
            files.append(Path(directory.name) / f"{region}.ron")
            files[-1].write_text(text)
        environment = {**os.environ, "IRIS_BIN": str(binary())}
        command = [str(ROOT / "scripts" / "geo"), "--data", f"{directory.name}/data", *map(str, files)]
        # A check that was started in the background ignores Ctrl-C, and so would the script.
        heeds = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
        self.geo = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=heeds)
        self.addCleanup(self.stop)
        assert self.geo.stdout is not None
        for line in self.geo.stdout:
            if "Ctrl-C" in line:
                return
        self.fail("scripts/geo does not start")

    def stop(self) -> None:
        if self.geo.returncode is None:
            self.geo.send_signal(signal.SIGINT)
        self.geo.wait(PATIENCE_S)
        assert self.geo.stdout is not None
        self.geo.stdout.close()

    def test_the_program_of_the_seed(self) -> None:
        # Simulate Tokyo user
        tokyo_client = IrisClient(self.host, 8085)
        self.addCleanup(tokyo_client.close)
        tokyo_client.login("tokyo_user")

        # Simulate Frankfurt user
        frankfurt_client = IrisClient(self.host, 8086)
        self.addCleanup(frankfurt_client.close)
        frankfurt_client.login("frankfurt_user")

        # Cross-region message
        receipt = tokyo_client.send_msg("frankfurt_user", "Hello from Tokyo!")

        message = frankfurt_client.recv_msg(timeout=PATIENCE_S)
        self.assertEqual((message.id, message.sender, message.text), (receipt.id, "tokyo_user", "Hello from Tokyo!"))
        self.assertEqual(tokyo_client.get_server_region(), "tokyo")
        self.assertEqual(frankfurt_client.get_server_region(), "frankfurt")
        with IrisClient(self.host, 8087) as traveller:
            traveller.login("traveller")
            self.assertEqual(traveller.get_server_region(), "saopaulo")
            self.assertTrue(traveller.presence("tokyo_user").online)
            traveller.send_msg("tokyo_user", "Boa tarde")
            self.assertEqual(tokyo_client.recv_msg(timeout=PATIENCE_S).text, "Boa tarde")

    def test_it_stops_on_ctrl_c(self) -> None:
        self.geo.send_signal(signal.SIGINT)
        self.assertEqual(self.geo.wait(PATIENCE_S), 0)


if __name__ == "__main__":
    unittest.main()
