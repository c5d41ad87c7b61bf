"""Two emulated nodes and a Job controller: a pod is a process, and its Job's failure policy interprets its exit
code.
"""

import subprocess
from dataclasses import dataclass

from tests.integration.finetuning.kubernetes.emulator import NAMESPACE, NODES, PODS, until

FIRST, SECOND = "gpu-1", "gpu-2"


@dataclass
class Pod:
    """A pod, and the process that it is.

    Attributes:
        code: as Kubernetes counts it; None while the process lives.
    """

    name: str
    job: str
    node: str
    process: subprocess.Popen
    ending: bool = False
    code: int | None = None


class Machines:
    """The kubelets and the Job controller.

    Attributes:
        pods: every one that there was, in order.
    """

    def __init__(self, api, start):
        self.pods, self._api, self._start = [], api, start
        for name in (FIRST, SECOND):
            api.node(name)

    def until(self, condition):
        """Lets them work until a condition gives something, and gives that."""

        def look():
            for pod in self.pods:
                if pod.code is None:
                    self._watch(pod)
            for job in self._api.jobs():
                mine = [pod for pod in self.pods if pod.job == job]
                waits = "conditions" not in self._api.job(job).get("status", {})
                if waits and all(pod.code is not None for pod in mine):
                    self._run(job, len(mine))
            return condition()

        return until(look, 240.0)

    def _run(self, job, number):
        """The Job controller makes a pod, and a node that takes pods starts it."""
        found = self._api.job(job)
        nodes = (self._api.emulator.objects[NODES, None, node].raw for node in (FIRST, SECOND))
        node = next(one["metadata"]["name"] for one in nodes if not one["spec"].get("unschedulable"))
        process = self._start(found["metadata"]["annotations"]["vfmalign.io/job-id"])
        pod = Pod(f"{job}-{number}", job, node, process)
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": found["metadata"]["uid"]}
        metadata = {"name": pod.name, "uid": pod.name, "ownerReferences": [owner | {"controller": True}]}
        metadata["labels"] = {"batch.kubernetes.io/job-name": job}
        spec = found["spec"]["template"]["spec"] | {"nodeName": node, "volumes": [{"name": "tmp", "emptyDir": {}}]}
        self._api.add(PODS, {"metadata": metadata, "spec": spec, "status": {"phase": "Running"}})
        self._api.status(job, active=1, ready=1)
        self.pods.append(pod)

    def _watch(self, pod):
        """A kubelet ends an evicted pod; the Job controller draws the consequence of an end."""
        lies = self._api.emulator.objects[PODS, NAMESPACE, pod.name].raw
        if (code := pod.process.poll()) is not None:
            pod.code = code if code >= 0 else 128 - code
            meaning = _meaning(self._api.job(pod.job), lies["status"].get("conditions", []), pod.code)
            self._api.remove_pod(pod.name)
            if meaning == "Ignore":
                self._api.status(pod.job, active=0, ready=0)
            else:
                self._api.condition(pod.job, meaning)
        elif "deletionTimestamp" in lies["metadata"] and not pod.ending:
            pod.ending = True
            pod.process.terminate()


def _meaning(job, conditions, code):
    """`Complete`, `Failed`, or `Ignore`, for which there is another pod: the first rule that fits decides."""
    if code == 0:
        return "Complete"
    actions = {"FailJob": "Failed", "Ignore": "Ignore"}
    for rule in job["spec"]["podFailurePolicy"]["rules"]:
        wanted = {one["type"] for one in rule.get("onPodConditions", [])}
        if wanted & {one["type"] for one in conditions} or code in rule.get("onExitCodes", {}).get("values", []):
            return actions[rule["action"]]
    return "Failed"  # as its `backoffLimit` is 0
