"""Many listeners to one sweep's stream: how long an event takes from its commit to each of them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from benchmarks.serving.filling import Filled, spec
from benchmarks.serving.reading import percentile
from benchmarks.serving.server import Server
from orchestrator.store import Store

EVENTS_A_SECOND = 5
CONNECT_AT_ONCE = 50


@dataclass
class _Heard:
    """When each client was told of each event, by the event's id."""

    times: dict[int, list[float]] = field(default_factory=dict)
    connected: int = 0


def listen(server: Server, filled: Filled, clients: int, seconds: float) -> dict[str, Any]:
    """`clients` connections hear of trials that are made meanwhile, one at a time."""
    store = Store(filled.url)
    try:
        sweep = store.create_sweep(spec("listening", 100), 100, "listening")
        lease = store.acquire_lease(sweep.id, "the benchmark", 3600)
        assert lease is not None
        store.add_trial(lease, 0, "search", {"learning_rate": 1e-5}, {}, 1000)
        return asyncio.run(_run(server, store, lease, clients, seconds))
    finally:
        store.close()


async def _run(
    server: Server, store: Store, lease: Any, clients: int, seconds: float
) -> dict[str, Any]:
    heard = _Heard()
    gate = asyncio.Semaphore(CONNECT_AT_ONCE)
    began = time.perf_counter()
    tasks = [
        asyncio.create_task(_client(server, lease.sweep_id, heard, gate)) for _ in range(clients)
    ]
    while heard.connected < clients:
        await asyncio.sleep(0.05)
        for task in tasks:
            if task.done():
                task.result()
    opened = time.perf_counter() - began

    committed: dict[int, float] = {}
    number, until = 1, time.perf_counter() + seconds
    while time.perf_counter() < until:
        await asyncio.to_thread(
            store.add_trial, lease, number, "search", {"learning_rate": 1e-5}, {}, 1000
        )
        at = time.perf_counter()
        committed[await asyncio.to_thread(store.last_event_id, lease.sweep_id)] = at
        number += 1
        await asyncio.sleep(1 / EVENTS_A_SECOND)
    for _ in range(100):
        if all(len(heard.times.get(id, ())) == clients for id in committed):
            break
        await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    delays = [max(0.0, at - committed[id]) for id in committed for at in heard.times.get(id, ())]
    return {
        "clients": clients,
        "events": len(committed),
        "told": len(delays),
        "missed": clients * len(committed) - len(delays),
        "opened_s": round(opened, 2),
        "p50_s": round(percentile(delays, 50), 3),
        "p99_s": round(percentile(delays, 99), 3),
        "max_s": round(max(delays), 3),
    }


async def _client(server: Server, sweep_id: str, heard: _Heard, gate: asyncio.Semaphore) -> None:
    address = urlsplit(server.url)
    async with gate:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(
            f"GET /v1/sweeps/{sweep_id}/stream HTTP/1.1\r\nHost: {address.netloc}\r\n"
            f"Authorization: Bearer {server.token}\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise ConnectionError(head.decode(errors="replace"))
        await reader.readuntil(b"event: sweep")
        heard.connected += 1
    try:
        while line := await reader.readline():
            if line.startswith(b"id: "):
                heard.times.setdefault(int(line[4:]), []).append(time.perf_counter())
    finally:
        writer.close()
