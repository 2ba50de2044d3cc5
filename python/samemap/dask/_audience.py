"""Who is there: which workers and clients of a cluster may read messages, and where.

Each worker is asked once, and a new one when the scheduler tells of it. Until it has
answered, everything goes by value: a graph may be run by any worker, and nothing waits
for an answer on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import weakref
from typing import Any

from distributed import Client

from .. import _remote, _sight
from .._remote import Readers
from .._sight import Place
from . import _arrival, _wire

_TOPIC = "all"

_logger = logging.getLogger(__name__)

# The ids of a cluster's clients: those of the workers themselves, and the scheduler's
# own for what is to be run without one, are not others.
_CLIENTS = _wire.ByValue(
    "lambda dask_scheduler: [name for name in dask_scheduler.clients "
    "if name != 'fire-and-forget' and not name.startswith('Client-worker')]"
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
        self._asked: set[str] = set()
        self._others: set[Place | None] = set()
        self._asking: asyncio.Lock | None = None
        self._listens = False
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
            If nobody was asked, ask and wait, unless this is the event loop.
        """
        if self.workers is None:
            self.ask(wait)
        return self.workers

    def ask(self, wait: bool = True) -> None:
        """Ask those that were not asked. Any thread; on the event loop, it goes on.

        A cluster that doesn't answer leaves everything by value; nothing is raised.
        """
        client = self._client()
        if client is None or client.status not in ("running", "connecting"):
            return
        on_loop = _is_on_loop(client)
        if client.asynchronous or on_loop or not wait:
            client.loop.add_callback(self._ask)
            return
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            client.sync(self._ask, callback_timeout=30)

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
        if client.scheduler is None:
            return
        if not self._listens:
            self._listen(client)
        info = await client.scheduler.identity(n_workers=-1)
        present = set(info["workers"])
        with self._lock:
            for address in set(self._workers) - present:
                self._workers.pop(address)
            self._asked &= present
            unknown = sorted(present - self._asked)
        mine = _sight.here()
        met: dict[str, Any] = {}
        if unknown:
            answers = await client._run(
                _arrival.meet,
                client.id,
                _remote.place_parts(mine),
                workers=unknown,
                on_error="return",
            )
            for address, answer in answers.items():
                place = None
                # An error: it has no samemap, or is gone.
                if not isinstance(answer, BaseException):
                    place, clients = _remote.place_from(answer[0]), answer[1]
                    met.update(clients)
                with self._lock:
                    self._workers[address] = place
                    self._asked.add(address)
        if self.results is not None:
            await self._find_others(client, met)
        self._settle()
        await self._tell(client, mine)

    async def _find_others(self, client: Client, met: dict[str, Any]) -> None:
        """Find out where other clients of the cluster are."""
        try:
            names = await client._run_on_scheduler(_CLIENTS)
        except Exception as error:
            # What the scheduler forbids or can't do; then others may be there.
            _logger.info("The scheduler doesn't tell its clients: %s", error)
            names = [None]
        others = [name for name in names if name != client.id]
        unmet = [name for name in others if name not in met]
        sighted = [a for a in self._asked if self._workers.get(a) is not None]
        if unmet and sighted:
            answers = await client._run(
                _arrival.meet,
                client.id,
                _remote.place_parts(_sight.here()),
                workers=sighted[:1],
                on_error="return",
            )
            for answer in answers.values():
                if not isinstance(answer, BaseException):
                    met.update(answer[1])
        with self._lock:
            self._others = {
                _remote.place_from(met[name]) if name in met else None
                for name in others
            }

    async def _tell(self, client: Client, mine: Place) -> None:
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
            await client._run(
                _arrival.hear, parts, self.results, workers=addresses, on_error="return"
            )
        self._told = told

    def _settle(self) -> None:
        """Draw the conclusions from what is known."""
        with self._lock:
            places = set(self._workers.values())
            self.workers = Readers(places)
            self.everyone = Readers({*places, *self._others, _sight.here()})

    def dismiss(self) -> None:
        """Let workers send results as without samemap, and forget this audience."""
        self.results = None
        client = self._client()
        addresses = [a for a, place in self._workers.items() if place is not None]
        if client is not None and client.status == "running" and addresses:

            async def dismiss() -> None:
                await client._run(
                    _arrival.forget, workers=addresses, on_error="ignore"
                )

            if client.asynchronous or _is_on_loop(client):
                client.loop.add_callback(dismiss)
            else:
                with contextlib.suppress(OSError, TimeoutError, RuntimeError):
                    client.sync(dismiss, callback_timeout=30)
        let_go(self)

    # ---- News --------------------------------------------------------------------

    def _listen(self, client: Client) -> None:
        """Hear of workers that come and go, beside whoever else wants to."""
        self._listens = True
        before = client._event_handlers.get(_TOPIC)
        client.subscribe_topic(_TOPIC, _Listener(self, before))

    def close(self) -> None:
        """Give back the handler of events that was there."""
        client = self._client()
        self._held.clear()
        if client is None or not self._listens:
            return
        listener = client._event_handlers.get(_TOPIC)
        if isinstance(listener, _Listener):
            if listener.before is not None:
                client._event_handlers[_TOPIC] = listener.before
            elif client.status == "running":
                client.unsubscribe_topic(_TOPIC)
            else:
                client._event_handlers.pop(_TOPIC, None)
        self._listens = False

    def hear(self, message: Any) -> None:
        """Take note of an event, on the event loop."""
        if not isinstance(message, dict):
            return
        action, address = message.get("action"), message.get("worker")
        if action == "add-worker" and address is not None:
            with self._lock:
                if address in self._workers:
                    return
                self._workers[address] = None
        elif action == "remove-worker":
            with self._lock:
                self._workers.pop(address, None)
                self._asked.discard(address)
        elif action == "add-client" and self.results is not None:
            client = self._client()
            if client is None or message.get("client") == client.id:
                return
            if str(message.get("client")).startswith("Client-worker"):
                return
            with self._lock:
                self._others.add(None)
        elif action != "remove-client" or self.results is None:
            return
        self._settle()
        client = self._client()
        if client is not None and action != "remove-worker":
            client.loop.add_callback(self._ask)

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


class _Listener:
    """Handler of the topic on which a scheduler tells everybody what happens."""

    def __init__(self, audience: Audience, before: Any) -> None:
        self._audience = weakref.ref(audience)
        self.before = before

    def __call__(self, event: Any) -> Any:
        audience = self._audience()
        if audience is not None:
            audience.hear(event[1])
        return None if self.before is None else self.before(event)


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
