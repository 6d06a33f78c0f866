"""One pod of this node, from its binding to its end: performs what the pure parts decide.

A worker is one task. Whatever happens (the pod changed, a container ended, a probe answered, a
moment came) wakes it, and it takes one step: look at all of it, act, write the status if it says
something new. Probes and stops run beside it and only leave what they found.
"""

import asyncio
import logging
import random
import uuid
from collections import Counter
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from kubewire.api.errors import StatusError
from kubewire.kubelet import lifecycle, rehearsal
from kubewire.kubelet.adopt import adopted
from kubewire.kubelet.environment import ConfigError, Source
from kubewire.kubelet.furnish import stand_in_note
from kubewire.kubelet.hooks import run_hook
from kubewire.kubelet.lastwords import last_words
from kubewire.kubelet.live import Live, Node
from kubewire.kubelet.network import NetworkError
from kubewire.kubelet.output import Output
from kubewire.kubelet.pod import Container, Pod
from kubewire.kubelet.prober import Target
from kubewire.kubelet.probes import Changed, Group, Kill, Kind, Outcome, complaint_of
from kubewire.kubelet.probes import Run as RunProbe
from kubewire.kubelet.record import ContainerRecord, PodRecord, Running
from kubewire.kubelet.runtime import Run, StartError, log_path
from kubewire.kubelet.sandbox import Sandbox
from kubewire.kubelet.statuswriter import RETRY_SECONDS, StatusWriter

SETTLE_SECONDS = 1.0
"""How long the first status may wait for the first probes: usually one write says it all."""

EAGER_SECONDS = 0.03
"""Between the probes of a builtin (DNS, ingress) that has not answered one yet."""

MAX_RETRY_SECONDS = 15.0
SHORTEST_GRACE = 2.0
"""What is left for SIGTERM after a hook that used up the grace period."""

log = logging.getLogger(__name__)


class PodWorker:
    """One pod."""

    def __init__(self, node: Node, pod: Pod) -> None:
        self.pod = pod
        self.is_settled = False
        """Nothing is under way but waiting."""
        self.probed: Counter[tuple[str, str, str]] = Counter()
        """How many probes of a container and type ended in which way."""
        self._node = node
        self._is_gone = False
        self._wake = asyncio.Event()
        self._exits: list[tuple[str, str, int]] = []
        self._live: dict[str, Live] = {}
        self._sandbox = Sandbox(node.host, pod, node.network, node.gate)
        self._survived = self._sandbox.survives
        self._record = adopted(pod, node.clock(), node.maximum_backoff, survived=self._survived)
        self._adoptable = self._survived
        self._status = StatusWriter(node.client, node.host.ips)
        self._hold_until = 0.0
        self._retry_at = 0.0
        self._failures = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._note = stand_in_note(pod, node.runtimes)

    def update(self, pod: Pod | None) -> None:
        """The pod has changed; None: it is no longer in the API."""
        self.is_settled = False
        if pod is None:
            self._is_gone = True
        else:
            before, self.pod = self.pod, pod
            for container in pod.spec.ephemerals:
                self._record.containers.setdefault(container.name, ContainerRecord())
            self._sandbox.pod = pod
            self._shorten_grace()
            for kind in Kind:
                name = rehearsal.annotation(kind)
                if before.annotations.get(name) != pod.annotations.get(name):
                    self._rehearse(kind)
        self._wake.set()

    def _rehearse(self, kind: Kind) -> None:
        """A rehearsal of what runs begins, changes or ends."""
        now = self._now()
        until = rehearsal.rehearsed(self.pod.annotations, kind, now)
        for live in self._live.values():
            live.probes.rehearse(kind, now, fails=until is not None)

    @property
    def record(self) -> PodRecord:
        """What is known of the pod."""
        return self._record

    def live(self, container: str) -> Live | None:
        """A container that runs."""
        return self._live.get(container)

    def is_played(self, container: Container) -> bool:
        """A stand-in answers for it: no program runs."""
        runtimes = self._node.runtimes
        return runtimes.of(container) is runtimes.stand_in

    @property
    def folder(self) -> Path:
        """The pod's folder."""
        return self._sandbox.folder

    @property
    def netns(self) -> Path:
        """The pod's network namespace."""
        return self._sandbox.netns

    async def refresh(self, source: Source) -> None:
        """A ConfigMap or Secret has changed: so do the volumes that show it."""
        if not self._is_gone:
            await self._node.furnisher.refresh(self._sandbox, source)

    def replacement(self) -> "PodWorker":
        """A worker that goes on after this one has failed."""
        worker = PodWorker(self._node, self.pod)
        worker._is_gone = self._is_gone
        return worker

    async def run(self) -> None:
        """Follow the pod until it is gone."""
        record = self._record
        record.started_at = record.started_at or self._now()
        try:
            while True:
                self._wake.clear()
                wake_at = await self._step()
                if wake_at is None:
                    return
                if not self._wake.is_set() and not self._holds_status():
                    self.is_settled = True
                    self._node.on_settled()
                await self._wait(wake_at)
        finally:
            for task in self._tasks:
                task.cancel()
            self.is_settled = True
            self._node.on_settled()

    def _now(self) -> float:
        return self._node.clock()

    def _holds_status(self) -> bool:
        """A first probe is under way: its result is to go into the same write."""
        is_settling = any(live.probes.is_settling for live in self._live.values())
        return is_settling and self._now() < self._hold_until

    async def _wait(self, wake_at: float) -> None:
        delay = wake_at - self._now()
        if delay <= 0:
            return
        try:
            async with asyncio.timeout(delay):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _step(self) -> float | None:
        """Act on all that is known; when to act again, or None at the end."""
        pod, record, now = self.pod, self._record, self._now()
        self._take_exits()
        record.is_terminating = pod.is_deleted or self._is_gone
        limit = lifecycle.deadline(pod, record)
        if limit is not None and now >= limit and not lifecycle.has_finished(pod, record):
            record.deadline_passed = True
        if not record.is_terminating and not self._is_over() and not record.has_sandbox:
            await self._bring_up()
        wakes = [self._retry_at] if self._retry_at > now else []
        while True:
            plan = lifecycle.plan(pod, record, self._now())
            if plan.wake_at is not None:
                wakes.append(plan.wake_at)
            if any(isinstance(a, lifecycle.Remove) for a in plan.actions):
                await self._remove()
                return None
            started = await self._act(plan)
            self._take_exits()
            if not started:
                break
        if record.has_sandbox and self._is_over() and not self._live:
            await self._sandbox.down()
            record.has_sandbox = False
        self._run_probes()
        wakes += [w for live in self._live.values() if (w := live.probes.wake_at()) is not None]
        wakes.append(await self._write_status())
        return min(wakes, default=float("inf"))

    def _is_over(self) -> bool:
        return self._record.deadline_passed or lifecycle.has_finished(self.pod, self._record)

    async def _act(self, plan: lifecycle.Plan) -> bool:
        """Perform a plan; true if something started, so that more may follow."""
        started = False
        for action in plan.actions:
            if isinstance(action, lifecycle.Start):
                await self._start(action.container)
                started = True
            elif isinstance(action, lifecycle.Stop):
                self._stop(
                    action.container, self._grace(), f"Stopping container {action.container.name}"
                )
        return started

    # --- sandbox

    async def _bring_up(self) -> None:
        if self._retry_at > self._now():
            return
        try:
            await self._sandbox.up()
        except (NetworkError, OSError, StatusError) as error:
            self._failures += 1
            delay = min(MAX_RETRY_SECONDS, RETRY_SECONDS * 2 ** (self._failures - 1))
            self._retry_at = self._now() + delay
            self._event(
                "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}", warning=True
            )
            return
        self._failures = 0
        record = self._record
        record.has_sandbox, record.ips, record.message = True, self._sandbox.ips, self._note
        for complaint in self._sandbox.complaints:
            self._event(complaint.reason, complaint.message, warning=True)
        if self._adoptable:
            self._adoptable = False
            await self._adopt()

    async def _adopt(self) -> None:
        """Go on with the stand-ins that played while the agent was away."""
        for container in self.pod.spec.everything:
            known = self._record.containers[container.name]
            if not isinstance(known.state, Running):
                continue
            try:
                live = await self._launch(container, known.id)
            except StartError:
                known.end(1, self._now(), self._node.maximum_backoff)
                continue
            live.probes.resume(
                started=known.started, ready=known.ready, now=self._now(), spread=random.random()
            )

    async def _remove(self) -> None:
        """Every container has ended: take the pod off the node, then out of the API."""
        await self._sandbox.down()
        self._sandbox.remove()
        if not self._is_gone:
            await self._status.remove(self.pod)

    # --- containers

    async def _start(self, container: Container) -> None:
        known = self._record.containers[container.name]
        runtime = self._node.runtimes.of(container)
        id_ = f"{runtime.scheme}://{uuid.uuid4().hex}"
        try:
            live = await self._launch(container, id_)
        except StartError as error:
            known.fail(error.reason, str(error), self._now(), self._node.maximum_backoff)
            self._event("Failed", f"Error: {error}", container, warning=True)
            return
        now = self._now()
        known.run(id_, runtime.image_id, now, has_probes=False)
        known.started, known.ready = live.probes.started, live.probes.ready
        if live.probes.workers:
            self._hold_until = now + SETTLE_SECONDS
        self._event("Started", f"Started container {container.name}", container)
        hooks = container.lifecycle
        if hooks is not None and hooks.post_start is not None:
            await self._post_start(container, live)

    async def _launch(self, container: Container, id_: str) -> Live:
        """Start a run by its runtime. Raises StartError."""
        try:
            entrance = await self._node.furnisher.entrance(self._sandbox, container)
        except (ConfigError, StatusError) as error:
            raise StartError("CreateContainerConfigError", str(error)) from error
        except OSError as error:
            raise StartError("CreateContainerError", str(error)) from error
        name = container.name
        run = Run(
            id=id_,
            pod=self.pod,
            container=container,
            node=self._node.host.name,
            netns=str(self._sandbox.netns),
            folder=self._sandbox.folder,
            ips=self._sandbox.ips,
            output=Output(log_path(self._sandbox.folder, name)),
            on_exit=partial(self._on_exit, name, id_),
        )
        is_init = container in self.pod.spec.inits and not container.is_sidecar
        probes = Group({} if is_init else container.probes, self._now())
        runtimes = self._node.runtimes
        live = Live(run, entrance, probes, is_builtin=runtimes.of(container) is runtimes.builtin)
        self._live[name] = live
        try:
            await self._node.runtimes.of(container).start(run, entrance)
        except StartError:
            self._live.pop(name, None)
            raise
        return live

    async def _post_start(self, container: Container, live: Live) -> None:
        assert container.lifecycle is not None
        assert container.lifecycle.post_start is not None
        failure = await self._hook(container, live, container.lifecycle.post_start, None)
        if failure:
            self._event(
                "FailedPostStartHook", f"PostStartHook failed: {failure}", container, warning=True
            )
            self._stop(container, self._grace(), "FailedPostStartHook")

    async def _hook(
        self, container: Container, live: Live, handler: Any, limit: float | None
    ) -> str:
        runtime = self._node.runtimes.of(container)
        target = self._target(container, live)
        return await run_hook(
            handler,
            target,
            self._node.prober,
            limit,
            played=runtime is self._node.runtimes.stand_in,
        )

    def _grace(self) -> float:
        if self._is_gone:
            return min(self.pod.spec.grace, SHORTEST_GRACE)
        given = self.pod.metadata.deletion_grace_period_seconds
        return self.pod.spec.grace if given is None or not self.pod.is_deleted else given

    def _stop(self, container: Container, grace: float, why: str, *, hook: bool = True) -> None:
        """Begin to stop a container; its exit comes back as any other."""
        live = self._live.get(container.name)
        if live is None:
            return
        self._record.containers[container.name].is_stopping = True
        live.grace = grace
        if hook:
            self._event("Killing", why, container)
        if self._record.is_terminating:
            live.probes.terminate()
        live.stopping = self._spawn(self._stopping(container, live, grace, hook=hook))

    async def _stopping(
        self, container: Container, live: Live, grace: float, *, hook: bool
    ) -> None:
        until = self._now() + grace
        hooks = container.lifecycle
        if hook and hooks is not None and hooks.pre_stop is not None and grace > 0:
            failure = await self._hook(container, live, hooks.pre_stop, grace)
            if failure:
                self._event(
                    "FailedPreStopHook", f"PreStopHook failed: {failure}", container, warning=True
                )
        left = max(until - self._now(), min(grace, SHORTEST_GRACE))
        await self._node.runtimes.of(container).stop(live.run, left)

    def _shorten_grace(self) -> None:
        """Deletion was asked for again, with less grace: what is stopping stops sooner."""
        for name, live in list(self._live.items()):
            if live.stopping is not None and self.pod.is_deleted and self._grace() < live.grace:
                live.stopping.cancel()
                container = live.run.container
                assert container.name == name
                self._stop(container, self._grace(), "", hook=False)

    def _on_exit(self, name: str, id_: str, code: int) -> None:
        self._exits.append((name, id_, code))
        self.is_settled = False
        self._wake.set()

    def _take_exits(self) -> None:
        while self._exits:
            name, id_, code = self._exits.pop(0)
            live = self._live.get(name)
            known = self._record.containers[name]
            if live is None or live.run.id != id_:
                continue
            del self._live[name]
            live.probes.stop()
            live.run.output.finish()
            said = last_words(live.run.folder, live.run.container, code)
            known.end(code, self._now(), self._node.maximum_backoff, said)
            if known.backoff and not self._record.is_terminating:
                self._announce_backoff(live.run.container, known)

    def _announce_backoff(self, container: Container, known: ContainerRecord) -> None:
        meta = self.pod.metadata
        self._event(
            "BackOff",
            f"Back-off restarting failed container {container.name} in pod "
            f"{meta.name}_{meta.namespace}({meta.uid})",
            container,
            warning=True,
        )

    # --- probes

    def _run_probes(self) -> None:
        now = self._now()
        for name, live in self._live.items():
            if self._record.is_terminating:
                live.probes.terminate()
            for action in live.probes.tick(now):
                if isinstance(action, RunProbe):
                    self._spawn(self._probe(name, live, action.kind))

    def _target(self, container: Container, live: Live) -> Target:
        runtime = self._node.runtimes.of(container)
        ip = self._sandbox.ips[0] if self._sandbox.ips else ""
        return Target(container, ip, partial(runtime.execute, live.run, live.entrance))

    async def _probe(self, name: str, live: Live, kind: Kind) -> None:
        container = live.run.container
        spec = live.probes.workers[kind].spec
        until = rehearsal.rehearsed(self.pod.annotations, kind, self._now())
        if until is None:
            outcome, message = await self._node.prober.probe(spec, self._target(container, live))
        else:
            outcome, message = Outcome.FAILURE, rehearsal.message(until)
            live.probes.hurry(kind, until)
        self.probed[name, kind, outcome] += 1
        if self._live.get(name) is not live:
            return
        is_early = live.is_builtin and kind is Kind.READINESS and not live.has_passed
        if is_early and outcome is Outcome.FAILURE:
            # Ours, and only just started: nobody should wait a period for it.
            live.probes.hurry(kind, self._now() + EAGER_SECONDS)
        else:
            live.has_passed = live.has_passed or kind is Kind.READINESS
            if complaint := complaint_of(kind, outcome, message):
                self._event(*complaint, container, warning=True)
        for action in live.probes.ended(kind, outcome):
            if isinstance(action, Kill) and not live.stopping:
                grace = self._grace() if action.grace is None else action.grace
                text = f"Container {name} failed {action.kind} probe, will be restarted"
                self._stop(container, grace, text)
            elif isinstance(action, Changed):
                known = self._record.containers[name]
                known.started, known.ready = live.probes.started, live.probes.ready
        self._wake.set()

    # --- status

    async def _write_status(self) -> float:
        """Write the status if it is new; when to try (again)."""
        never = float("inf")
        if self._is_gone:
            return never
        now = self._now()
        if self._holds_status():
            return self._hold_until
        self._hold_until = 0.0
        return await self._status.write(self.pod, self._record, now)

    def _event(
        self,
        reason: str,
        message: str,
        container: Container | None = None,
        *,
        warning: bool = False,
    ) -> None:
        name = container.name if container is not None else ""
        self._node.recorder.event(self.pod, reason, message, container=name, warning=warning)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
