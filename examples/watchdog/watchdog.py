"""Watches the pods of all namespaces: alerts where one crash-loops or stays pending, ends the alert when it recovers, and
deletes a crash-looping pod that something will replace, within a budget.

Variables: ``KUBECONFIG`` (else the cluster this runs in), ``ALERTMANAGER_URL``, and those below. Replicas compete for a lease.

    headrace run examples/watchdog/watchdog.py
"""

import logging
import os
from datetime import UTC, datetime
from typing import Any

from headrace import App, Event
from headrace.http import Alertmanager
from headrace.kubernetes import ApiError, Budget, Change, Cluster, Lease, RepairRefused, Watch

#: Seconds that a pod may be pending, and between two looks at what does not change.
PENDING = float(os.environ.get("WATCHDOG_PENDING", "300"))
LOOK = float(os.environ.get("WATCHDOG_LOOK", "60"))
#: Restarts after which a crash-looping pod is deleted, and how many are in an hour.
RESTARTS = int(os.environ.get("WATCHDOG_RESTARTS", "5"))
REPAIRS = int(os.environ.get("WATCHDOG_REPAIRS", "10"))

log = logging.getLogger("watchdog")
app = App("watchdog")
lease = Lease("watchdog")
cluster = Cluster(
    allow={"pods": ["delete"]},
    lease=lease,
    cooldown=600,
    budget=Budget(actions=REPAIRS, per=3600),
    component="watchdog",
)
alerts = Alertmanager(
    os.environ.get("ALERTMANAGER_URL", "http://alertmanager:9093"),
    labels=("alertname", "namespace", "pod"),
    fixed={"severity": "warning"},
    annotations=("summary", "repair"),
    lasts=5 * LOOK,
)


@app.on(Watch("pods", previous=True, resync=LOOK, lease=lease), publishes=alerts)
async def pod_changed(event: Event, change: Change) -> list[dict[str, Any]]:
    now = {} if event.type.endswith(".delete") else troubles(change.object)
    # What is not known (after a restart) may have been in trouble: its alerts are ended, which harms none that never fired.
    unknown = change.previous is None and not event.type.endswith(".add")
    before = {"PodCrashLooping": "", "PodPending": ""} if unknown else troubles(change.previous or {})
    found = {"namespace": event["namespace"], "pod": event["name"]}
    said = [{**found, "alertname": name, "firing": False, "summary": "recovered"} for name in before if name not in now]
    for name, summary in now.items():
        repair = await repaired(event, change.object) if name == "PodCrashLooping" else ""
        said.append({**found, "alertname": name, "firing": True, "summary": summary, "repair": repair})
    return said


def troubles(pod: dict[str, Any]) -> dict[str, str]:
    """What is wrong with a pod: the alert's name and why, in words."""
    found = {}
    status = pod.get("status") or {}
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") == "CrashLoopBackOff":
            restarts = container.get("restartCount", 0)
            found["PodCrashLooping"] = f"container {container.get('name')} was restarted {restarts} times"
    if status.get("phase") == "Pending":
        created = datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
        waited = (datetime.now(UTC) - created).total_seconds()
        if waited >= PENDING:
            found["PodPending"] = f"pending for {PENDING:.0f} s and more"
    return found


async def repaired(event: Event, pod: dict[str, Any]) -> str:
    """Delete a pod that has restarted too often and that a controller will replace; what was done, in words."""
    metadata = pod["metadata"]
    restarts = max(container.get("restartCount", 0) for container in pod["status"]["containerStatuses"])
    replaced = any(owner.get("controller") for owner in metadata.get("ownerReferences") or ())
    if restarts < RESTARTS or not replaced or metadata.get("deletionTimestamp"):
        return ""
    try:
        await cluster.delete(event, reason=f"crash-looping, {restarts} restarts")
    except RepairRefused as refused:
        log.warning("not repaired: %s", refused)
        return f"not repaired: {refused}"
    except ApiError as error:
        if error.code not in (404, 409):
            raise
        return ""  # it is gone already, or another of its name is there
    return "deleted, for its controller to replace"
