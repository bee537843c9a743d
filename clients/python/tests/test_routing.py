"""Whole programs: two users, a server that carries messages and cuts connections, and plain scripts."""

from __future__ import annotations

import random
import time
import unittest
from typing import List

from iris_client import IrisClient, TakenOver

from fake_server import PATIENCE_S, RoutingServer, call

SEED = 3


class Routing(unittest.TestCase):
    def test_one_thread_and_two_clients(self) -> None:
        server = RoutingServer(region="tokyo")
        self.addCleanup(server.close)
        tokyo_client = IrisClient("127.0.0.1", server.port)
        tokyo_client.login("tokyo_user")
        frankfurt_client = IrisClient("127.0.0.1", server.port)
        frankfurt_client.login("frankfurt_user")
        started = time.monotonic()
        receipt = tokyo_client.send_msg("frankfurt_user", "Hello")
        self.assertLess(time.monotonic() - started, 1.0)
        self.assertEqual(receipt.level, "stored")
        message = frankfurt_client.recv_msg(PATIENCE_S)
        self.assertEqual((message.sender, message.text, message.id), ("tokyo_user", "Hello", receipt.id))
        self.assertEqual(tokyo_client.get_server_region(), "tokyo")
        watch = tokyo_client.watch("frankfurt_user", PATIENCE_S)
        frankfurt_client.close()
        self.assertFalse(watch.next(PATIENCE_S).online)
        # The acknowledgement went before the end of the session, so "delivered" came before the presence.
        self.assertEqual(receipt.level, "delivered")
        tokyo_client.close()

    def test_a_message_waits_for_its_recipient(self) -> None:
        server = RoutingServer()
        self.addCleanup(server.close)
        with IrisClient("127.0.0.1", server.port) as alice:
            alice.login("alice")
            for number in range(100):
                alice.send_nowait("bob", str(number))
        with IrisClient("127.0.0.1", server.port) as bob:
            bob.login("bob")
            self.assertEqual([int(bob.recv_msg(PATIENCE_S).text) for _ in range(100)], list(range(100)))

    def test_the_newest_login_wins(self) -> None:
        server = RoutingServer()
        self.addCleanup(server.close)
        older, newer = (IrisClient("127.0.0.1", server.port) for _ in range(2))
        older.login("alice")
        receiving = call(older.recv_msg)
        newer.login("alice")
        with self.assertRaises(TakenOver):
            receiving.result(PATIENCE_S)
        newer.send_msg("alice", "to myself", timeout=PATIENCE_S)
        self.assertEqual(newer.recv_msg(PATIENCE_S).text, "to myself")
        newer.close()

    def test_every_message_once_and_in_order_over_cut_connections(self) -> None:
        for seed in range(SEED, SEED + 3):
            with self.subTest(seed=seed):
                self.run_cut(seed)

    def run_cut(self, seed: int) -> None:
        server = RoutingServer(random.Random(seed))
        count = 1500
        alice = IrisClient("127.0.0.1", server.port)
        bob = IrisClient("127.0.0.1", server.port)
        try:
            alice.login("alice")
            bob.login("bob")

            def receive() -> List[int]:
                return [int(bob.recv_msg(60.0).text) for _ in range(count)]

            receiving = call(receive)
            futures = [alice.send_nowait("bob", str(number)) for number in range(count)]
            for future in futures:
                future.result(60.0)
            self.assertEqual(receiving.result(60.0), list(range(count)))
            self.assertGreater(server.cuts, 0)
            self.assertGreaterEqual(server.sends, count)
        finally:
            alice.close(0.5)
            bob.close(0.5)
            server.close()


if __name__ == "__main__":
    unittest.main()
