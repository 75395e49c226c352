"""What does the ledger measure of itself? ``/metrics``, and what it says of the state.

Checks are counted as plain integers, because a counter of a library costs more than a check may be
slowed down. A thread takes these over once a second, and so does each scrape for its own process;
what other processes counted may be a second old.
"""

from __future__ import annotations

import logging
import platform
import shutil
import threading
from collections.abc import Iterator
from typing import Final

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import Receive, Scope, Send

from ledger.domain.values import Role, parse_instant
from ledger.service.http.authzen import DecisionPoint
from ledger.service.http.live import Live
from ledger.service.http.problems import problem, responses
from ledger.service.http.route import allow, router
from ledger.service.http.shapes import BEHIND_THE_GATE
from ledger.service.metrics import Deltas, Metrics
from ledger.service.wiring import Service

PUBLISH_INTERVAL_S: Final = 1.0  # how old the values of another process may be
VERSION: Final = "0.1.0"
PATH: Final = "/metrics"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

routes = router("health")
log = logging.getLogger(__name__)


@routes.get(
    PATH,
    summary="What the ledger measures of itself",
    response_class=Response,
    openapi_extra=allow(Role.AUDITOR),
    responses={
        200: {
            "description": "The values of all processes of this host, in the format of Prometheus.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **responses(*BEHIND_THE_GATE),
    },
)
def metrics(request: Request) -> Response:
    """Answer counters, histograms and gauges in the text format of Prometheus."""
    monitor: Monitor = request.app.state.monitor
    return monitor.answer()


class Monitor:
    """Publishes the state of one process, and answers for all."""

    def __init__(
        self, service: Service, point: DecisionPoint, live: Live, metrics: Metrics
    ) -> None:
        self.metrics = metrics
        self._service = service
        self._point = point
        self._live = live
        self._deltas = Deltas()
        self._store = CollectorRegistry()
        self._store.register(StoreState(service))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self, *, vault_keys_lost: int) -> None:
        """Begin to publish."""
        self.metrics.vault_keys_lost.set(vault_keys_lost)
        self.metrics.processes.set(1)
        self.publish()
        self._thread.start()

    def stop(self) -> None:
        """Publish once more, then stop."""
        self._stop.set()
        self._thread.join()
        self.metrics.processes.set(0)
        self.metrics.streams_open.set(0)

    def answer(self) -> Response:
        """Return the values of all processes."""
        self.publish()
        text = self.metrics.text() + generate_latest(self._store)
        return Response(
            text,
            headers={
                "Content-Type": CONTENT_TYPE,
                "Cache-Control": "no-store",
                "Ledger-Position": str(self._service.feed.position),
            },
        )

    def publish(self) -> None:
        """Take over what this process counted, and say how it stands."""
        service, metrics, point = self._service, self.metrics, self._point
        with self._deltas.lock:
            self._deltas.add(metrics.checks["allowed"], point.allowed)
            self._deltas.add(metrics.checks["denied"], point.denied)
            self._deltas.add(metrics.checks["refused"], point.refused)
            self._deltas.add(metrics.streams_cut, self._live.cut)
            metrics.streams_open.set(self._live.open)
            if service.decision_log is not None:
                self._deltas.add(metrics.decisions_dropped, service.decision_log.dropped)
            metrics.index_subjects.set(service.index.subjects)
            metrics.following_stopped.set(service.feed.failure is not None)
            metrics.tamper_detected.set(service.signer.doubt is not None)
            position = service.feed.position
            with service.reading(newest=True) as (c, head):
                behind = sum(
                    each.state != "cosigning" and each.behind > 0
                    for each in service.witnesses.standings(c)
                )
                c.execute("SELECT recorded_at FROM events WHERE position = ?", (position + 1,))
                row = c.fetchone()
            metrics.witnesses_behind.set(behind)
            metrics.position.set(position)
            metrics.lag_positions.set(max(0, head - position))
            metrics.lag_seconds.set(0 if row is None else _age_of(service, row[0]))

    def _run(self) -> None:
        while not self._stop.wait(PUBLISH_INTERVAL_S):
            self._try()
        self._try()

    def _try(self) -> None:
        try:
            self.publish()
        except Exception:
            log.exception("publishing metrics failed; it is tried again")


class MetricsApp:
    """Answers ``/metrics`` without a key on a port of its own, and nothing else."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["path"] != PATH:
            answer: Response = problem(
                404,
                "no_such_route",
                "No such route",
                "This port has only /metrics",
                "GET /openapi.json on the main port describes every other route.",
            )
        elif scope["method"] not in ("GET", "HEAD"):
            answer = problem(
                405,
                "method_not_allowed",
                "This method is not allowed here",
                "/metrics is read",
                "The header Allow names the methods of this route.",
                headers={"Allow": "GET, HEAD"},
            )
        else:
            answer = await run_in_threadpool(self._monitor.answer)
        await answer(scope, receive, send)


class StoreState(Collector):
    """What the store says of itself, the same for all its processes; read when it is asked."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> Iterator[Metric]:
        """Name nothing beforehand: the names would cost a reading of the store."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Read and tell."""
        service = self._service
        size, _ = service.signer.published
        with service.reading(newest=True) as (c, head):
            c.execute("SELECT signed_at FROM log_checkpoints WHERE size = ?", (size,))
            signed = c.fetchone()
            standings = service.witnesses.standings(c)
        yield InfoMetricFamily(
            "ledger_build",
            "The program that answers.",
            {"version": VERSION, "python": platform.python_version()},
        )
        yield _gauge("ledger_log_size", "Events in the transparency log.", head)
        yield _gauge("ledger_checkpoint_size", "Events under the published checkpoint.", size)
        if signed is not None:
            yield _gauge(
                "ledger_checkpoint_age_seconds",
                "Since the published checkpoint was signed.",
                _age_of(service, signed[0]),
            )
        yield _gauge(
            "ledger_witness_lag_positions",
            "Events that the slowest witness has not cosigned.",
            max((each.behind for each in standings), default=0),
        )
        database = service.settings.database_path
        if database is None:
            return  # the disk is the server's, whose own metrics tell of it
        disk = shutil.disk_usage(database.parent)
        yield _gauge("ledger_disk_size_bytes", "Size of the disk of the database.", disk.total)
        yield _gauge("ledger_disk_free_bytes", "Free space on the disk of the database.", disk.free)
        yield _gauge(
            "ledger_database_size_bytes",
            "Size of the database, with what is not yet in its main file.",
            sum(
                path.stat().st_size
                for path in (database, database.with_name(f"{database.name}-wal"))
                if path.exists()
            ),
        )


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, value)


def _age_of(service: Service, instant: str) -> float:
    return max(0.0, (service.clock() - parse_instant(instant)).total_seconds())
