"""`AsyncIrisClient` against a real node."""

from __future__ import annotations

import asyncio
import unittest
from typing import Any, Awaitable, Callable, List

from iris_client import AsyncIrisClient, Refused, TakenOver

from node import PATIENCE_S, NodeTest


class AsyncTest(NodeTest):
    settings = "(node: (drain_ms: 300, edge: (retry_ms: 50)))"
    executors = 3

    def run_with(self, body: Callable[..., Awaitable[None]], *users: str) -> None:
        async def main() -> None:
            clients = [AsyncIrisClient("127.0.0.1", self.node.port) for _ in users]
            try:
                for client, user in zip(clients, users):
                    await client.login(user)
                await asyncio.wait_for(body(*clients), 2 * PATIENCE_S)
            finally:
                for client in clients:
                    await client.close(0.0)

        asyncio.run(main())

    def test_a_conversation(self) -> None:
        async def talk(alice: AsyncIrisClient, bob: AsyncIrisClient) -> None:
            for number in range(100):
                # Bob takes it meanwhile: otherwise each waits for `stored`, half a second.
                receipt, message = await asyncio.gather(alice.send_msg("bob", str(number)), bob.recv_msg(PATIENCE_S))
                assert (message.id, message.text, message.sender) == (receipt.id, str(number), "alice")
            assert (await alice.presence("bob")).online
            assert not (await alice.presence("carol")).online

        self.run_with(talk, "alice", "bob")

    def test_many_at_once(self) -> None:
        async def talk(*clients: AsyncIrisClient) -> None:
            names = [f"user-{number}" for number in range(len(clients))]

            async def one(client: AsyncIrisClient) -> None:
                futures = [await client.send_nowait(name, str(round)) for round in range(20) for name in names]
                heard: List[Any] = [await client.recv_msg(PATIENCE_S) for _ in range(20 * len(names))]
                for future in futures:
                    assert (await future).level in ("stored", "delivered")
                for name in names:
                    of_one = [message.text for message in heard if message.sender == name]
                    assert of_one == [str(round) for round in range(20)], (name, of_one)

            await asyncio.gather(*(one(client) for client in clients))

        self.run_with(talk, *[f"user-{number}" for number in range(20)])

    def test_kill_9(self) -> None:
        async def talk(alice: AsyncIrisClient, bob: AsyncIrisClient) -> None:
            loop = asyncio.get_running_loop()
            futures = []
            for number in range(1_500):
                futures.append(await alice.send_nowait("bob", str(number)))
                if number % 500 == 250:
                    await asyncio.sleep(0)
                    self.node.kill()
                    await loop.run_in_executor(None, self.node.restart)
            texts = [(await bob.recv_msg(PATIENCE_S)).text for _ in range(1_500)]
            assert texts == [str(number) for number in range(1_500)]
            for future in futures:
                await future.result(PATIENCE_S)

        self.run_with(talk, "alice", "bob")

    def test_a_take_over_and_a_refusal(self) -> None:
        async def talk(first: AsyncIrisClient, second: AsyncIrisClient, alice: AsyncIrisClient) -> None:
            with self.assertRaises(TakenOver):
                await first.recv_msg(PATIENCE_S)
            try:
                await alice.send_msg("bob\x00", "x")
            except (Refused, ValueError) as error:
                assert "bad_recipient" in str(getattr(error, "code", "bad_recipient"))
            else:
                raise AssertionError("it was sent")
            await alice.send_msg("bob", "hello")
            assert (await second.recv_msg(PATIENCE_S)).text == "hello"

        self.run_with(talk, "bob", "bob", "alice")


if __name__ == "__main__":
    unittest.main()
