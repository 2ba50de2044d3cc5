"""Who is there: which workers and clients of a cluster may read messages, and where.

Each worker is asked once, and a new one when the scheduler tells of it. Until it has
answered, everything goes by value: a graph may be run by any worker, and nothing waits
for an answer on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
import weakref
from typing import Any

from distributed import Client
from tornado.ioloop import PeriodicCallback

from .. import _remote, _sight
from .._remote import Readers
from .._sight import Place
from . import _arrival, _memory, _wire

_logger = logging.getLogger(__name__)

# What the scheduler was asked for less long ago than this is taken for what is, in
# seconds; and so often it is asked by itself, which tells of other clients.
_FRESH = 0.25
_PERIOD = 2.0

# So long an answer is waited for, in seconds.
_PATIENCE = 3.0

# The workers of a cluster, and the ids of its clients: those of the workers themselves,
# and the scheduler's own for what is to be run without one, are not others.
# (Events of the topic "all" would tell, too, but not all of those can be serialized: a
# scheduler that has somebody to send them to fails in `replicate`.)
_PRESENT = _wire.ByValue(
    "lambda dask_scheduler: ([*dask_scheduler.workers], [name for name in "
    "dask_scheduler.clients if name != 'fire-and-forget' "
    "and not name.startswith('Client-worker')])"
)


class Audience:
    """What one client knows of its cluster. Made by `of`.

    Parameters
    ----------
    client : distributed.Client
    """

    def __init__(self, client: Client) -> None:
        self._client = weakref.ref(client)
        self._lock = threading.Lock()
        # By address; None: blind, or hasn't answered yet.
        self._workers: dict[str, Place | None] = {}
        self._answered: set[str] = set()
        self._met: dict[str, Any] = {}
        # Bytes that a worker may have resident.
        self._room: dict[str, int | None] = {}
        self._others: set[Place | None] = set()
        self._asking: asyncio.Lock | None = None
        self._looked = 0.0
        self._clock: PeriodicCallback | None = None
        # None before the first answer.
        self._told: Any = None
        self.workers: Readers | None = None
        self.everyone: Readers | None = None
        # What messages name that has no path, by key, until the future is released.
        self._held: dict[Any, list[Any]] = {}
        # Tell the workers to send results by reference: None, or write_through.
        self.results: bool | None = None

    # ---- Questions ---------------------------------------------------------------

    def readers(self, wait: bool = True) -> Readers | None:
        """Return those who may run what this client submits, or None: nobody knows.

        Parameters
        ----------
        wait : bool
            If nobody was asked lately, ask and wait, unless this is the event loop.
        """
        if time.monotonic() - self._looked > _FRESH:
            self.ask(wait)
        return self.workers

    def _is_within(self, client: Client) -> bool:
        """Tell whether the cluster is in this process: nothing is to be gained."""
        scheduler = client.scheduler
        return scheduler is not None and scheduler.address.startswith("inproc://")

    def ask(self, wait: bool = True) -> None:
        """Ask those that were not asked. Any thread; on the event loop, it goes on.

        A cluster that doesn't answer leaves everything by value; nothing is raised.
        """
        client = self._client()
        if client is None or client.status not in ("running", "connecting"):
            return
        on_loop = _is_on_loop(client)
        if client.asynchronous or on_loop or not wait:
            self._looked = time.monotonic()
            client.loop.add_callback(self._ask)
            return
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            client.sync(self._ask, callback_timeout=10)

    async def _ask(self) -> None:
        client = self._client()
        if client is None:
            return
        if self._asking is None:
            self._asking = asyncio.Lock()
        async with self._asking:
            try:
                await self._ask_each(client)
            except (OSError, TimeoutError) as error:
                _logger.info("Workers could not be asked where they are: %s", error)

    async def _ask_each(self, client: Client) -> None:
        if client.scheduler is None or client.status != "running":
            return
        if self._is_within(client):
            self._looked = math.inf
            return
        self._looked = time.monotonic()
        if self._clock is None:
            self._clock = PeriodicCallback(self._ask, _PERIOD * 1000)
            # The client stops these when it is closed.
            client._periodic_callbacks["samemap"] = self._clock
            self._clock.start()
        workers, clients = await _find_present(client)
        present = set(workers)
        with self._lock:
            gone = set(self._workers) - present
            for address in gone:
                del self._workers[address]
            self._answered &= present
            unknown = sorted(present - self._answered)
            for address in unknown:
                self._workers[address] = None
        if unknown and self.workers is not None:
            # Until they have answered.
            self._settle()
        met: dict[str, Any] = {}
        if unknown:
            met = await self._meet(client, unknown)
        if self.results is not None:
            await self._find_others(client, clients, met)
        self._settle()
        await self._tell(client)

    async def _meet(self, client: Client, addresses: list[str]) -> dict[str, Any]:
        """Ask workers where they are; return the clients that they have met."""
        mine = _remote.place_parts(_sight.here())
        met: dict[str, Any] = {}
        answers = await _run_on(client, addresses, _arrival.meet, client.id, mine)
        for address, answer in answers.items():
            if isinstance(answer, OSError):
                # It is gone, or busy: another time.
                continue
            with self._lock:
                self._answered.add(address)
                # It has no samemap.
                if isinstance(answer, BaseException):
                    continue
                self._workers[address] = _remote.place_from(answer[0])
                self._room[address] = answer[2]
            met.update(answer[1])
        return met

    def places(self) -> dict[str, Place | None]:
        """Return where each worker is, by address; None: blind, or not asked yet."""
        with self._lock:
            return dict(self._workers)

    async def _find_others(
        self, client: Client, names: list[Any], met: dict[str, Any]
    ) -> None:
        """Find out where other clients of the cluster are: they may ask for results."""
        others = [name for name in names if name != client.id]
        unmet = [name for name in others if name not in self._met and name not in met]
        seeing = [a for a, place in self._workers.items() if place is not None]
        if unmet and seeing:
            met |= await self._meet(client, seeing[:1])
        self._met |= met
        places = [self._met.get(name) for name in others]
        with self._lock:
            self._others = {
                place if place is None else _remote.place_from(place)
                for place in places
            }

    async def _tell(self, client: Client) -> None:
        """Let the workers know who may read their results."""
        if self.results is None or self.everyone is None:
            return
        told = self.everyone.places, self.results, frozenset(self._workers)
        if told == self._told:
            return
        addresses = [a for a, place in self._workers.items() if place is not None]
        if addresses:
            parts = tuple(
                place if place is None else _remote.place_parts(place)
                for place in self.everyone.places
            )
            await _run_on(client, addresses, _arrival.hear, parts, self.results)
        self._told = told

    def _settle(self) -> None:
        """Draw the conclusions from what is known."""
        with self._lock:
            places = set(self._workers.values())
            rooms = [self._room.get(address) for address in self._workers]
            least = min((room for room in rooms if room is not None), default=None)
            watch = None if least is None else _memory.Watch(least)
            self.workers = Readers(places, watch)
            self.everyone = Readers({*places, *self._others, _sight.here()}, watch)

    def dismiss(self) -> None:
        """Let workers send results as without samemap, and forget this audience."""
        self.results = None
        client = self._client()
        addresses = [a for a, place in self._workers.items() if place is not None]
        if client is not None and client.status == "running" and addresses:

            async def dismiss() -> None:
                present, _ = await _find_present(client)
                there = [address for address in addresses if address in present]
                await _run_on(client, there, _arrival.forget)

            if client.asynchronous or _is_on_loop(client):
                client.loop.add_callback(dismiss)
            else:
                with contextlib.suppress(OSError, TimeoutError, RuntimeError):
                    client.sync(dismiss, callback_timeout=10)
        let_go(self)

    def close(self) -> None:
        """Stop asking."""
        client = self._client()
        self._held.clear()
        if client is not None and self._clock is not None:
            self._clock.stop()
            client._periodic_callbacks.pop("samemap", None)

    # ---- What is held ------------------------------------------------------------

    def hold(self, keys: Any, held: list[Any]) -> None:
        """Keep what the message of these keys names while one has a future."""
        client = self._client()
        if client is None or not held:
            return
        futures = client.futures
        for key in [key for key in self._held if key not in futures]:
            self._held.pop(key, None)
        for key in keys:
            if key in futures:
                self._held[key] = held


async def _run_on(
    client: Client, addresses: list[str], function: Any, *args: Any
) -> dict[str, Any]:
    """Run a function on workers; return what it returns or raises, by address.

    Who doesn't answer, as it is being killed, is left out: the scheduler waits for it.
    """

    def run(workers: list[str]) -> Any:
        call = client._run(function, *args, workers=workers, on_error="return")
        return asyncio.wait_for(call, _PATIENCE)

    try:
        return dict(await run(addresses))
    except (TimeoutError, OSError):
        pass
    answers = await asyncio.gather(
        *(run([address]) for address in addresses), return_exceptions=True
    )
    return {
        address: answer[address]
        for address, answer in zip(addresses, answers, strict=True)
        if not isinstance(answer, BaseException) and address in answer
    }


async def _find_present(client: Client) -> tuple[list[str], list[Any]]:
    """Ask the scheduler for its workers, and for its clients: None for any others."""
    try:
        workers, clients = await client._run_on_scheduler(_PRESENT)
    except (OSError, TimeoutError):
        raise
    except Exception as error:
        # A scheduler may forbid functions.
        _logger.info("The scheduler doesn't tell of its clients: %s", error)
        return list(await client.scheduler.ncores()), [client.id, None]
    return list(workers), list(clients)


def _is_on_loop(client: Client) -> bool:
    try:
        return asyncio.get_running_loop() is client.loop.asyncio_loop
    except RuntimeError:
        return False


_audiences: weakref.WeakKeyDictionary[Client, Audience] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def of(client: Client) -> Audience:
    """Return what a client knows of its cluster."""
    with _lock:
        found = _audiences.get(client)
        if found is None:
            found = _audiences[client] = Audience(client)
        return found


def known() -> list[Audience]:
    """Return all audiences of this process."""
    with _lock:
        return list(_audiences.values())


def let_go(audience: Audience) -> None:
    """Forget an audience."""
    audience.close()
    with _lock:
        for client in [c for c, a in _audiences.items() if a is audience]:
            del _audiences[client]


def of_scheduler(address: str | None) -> Audience | None:
    """Return the audience of a client of the cluster with this scheduler."""
    with _lock:
        for client, audience in _audiences.items():
            scheduler = client.scheduler
            if scheduler is not None and scheduler.address == address:
                return audience
    return None
