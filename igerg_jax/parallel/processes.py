"""Joins the processes of a distributed run, with a timeout and a readable error.

`config.distributed` says which processes make up a run. Nothing is guessed: a run that is meant for
a pod but trains on only one of its hosts would waste days. Nothing may touch a device before
`start` has returned.
"""

import atexit
import contextlib
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax._src import clusters  # no public API detects a cluster without joining it,
from jax._src import distributed as state  # or gives access to the client

from igerg_jax.constraints import Range, check_choice, check_constraints
from igerg_jax.errors import PortTaken, ProcessMissing, RunError, UserError
from igerg_jax.parallel import roll_call, watch

# JAX's names of the clusters that it can detect, and two of ours: "none", and "auto" for the first
# that JAX detects (which may be Kubernetes, although JAX has no name for it).
CLUSTERS = ("none", "auto", "gcetpu", "gketpu", "slurm", "ompi")
CONSTRAINTS = (
    Range("initialization_timeout_seconds", at_least=1),
    Range("heartbeat_timeout_seconds", at_least=5),  # there is one heartbeat a second
)
_GRACE_SECONDS = 120  # from our timeout to JAX's own, which aborts the process
_SAY_AFTER_SECONDS = 5
_PROBE_SECONDS = 3
_STOP_SECONDS = 3

# It logs why a cluster was not found, which is in our message.
logging.getLogger("jax._src.clusters").setLevel(logging.CRITICAL)

_is_joined = False  # whether this process has joined the others of its run
_roll: roll_call.Roll | None = None  # in process 0

# Cluster name -> a function from the environment variables to the number of processes.
_PROCESS_COUNTS = {
    "slurm": lambda env: int(env.get("SLURM_NTASKS", "1")) if "SLURM_PROCID" in env else 1,
    "gketpu": lambda env: len(env.get("TPU_WORKER_HOSTNAMES", "").split(",")),
    "ompi": lambda env: int(env.get("OMPI_COMM_WORLD_SIZE", "1")),
}


def start(settings: Any) -> None:
    """Joins this process to the others of its run, as `config.distributed` says.

    Does nothing for a single-process run, or if JAX's distributed system has started already.

    Raises:
      UserError: settings contradict each other, this process does not run in such a cluster, or it
        is one of several but the config does not say so.
      ProcessMissing: the others did not connect in time; the message names the coordinator.
      PortTaken: this is process 0, and its port is in use.
    """
    arguments = resolve(settings, os.environ)
    if arguments is None or jax.distributed.is_initialized():
        return
    timeout = settings.initialization_timeout_seconds
    failed: list[Exception] = []
    jax.config.update("jax_enable_preemption_service", False)  # `stopping` handles SIGTERM

    def connect() -> None:
        try:
            _join(_located(arguments, timeout), timeout, settings.heartbeat_timeout_seconds)
        except Exception as error:  # from gRPC, the operating system or a cluster's API
            failed.append(error)

    # In a thread, which releases the GIL while it waits: if the coordinator cannot be reached, XLA
    # aborts the process with a stack trace instead of a message.
    connecting = threading.Thread(target=connect, daemon=True)
    connecting.start()
    connecting.join(min(_SAY_AFTER_SECONDS, timeout))
    if connecting.is_alive() and timeout > _SAY_AFTER_SECONDS:
        message = f"{_who(arguments)}: waiting up to {timeout} s for all processes"
        print(message, file=sys.stderr, flush=True)
        connecting.join(timeout - _SAY_AFTER_SECONDS)
    if connecting.is_alive() or failed:
        error = failed[0] if failed else None
        kind = PortTaken if isinstance(error, PortTaken) else ProcessMissing
        abandon(kind.exit_code)
        raise kind(_explain(arguments, timeout, error))


def _located(arguments: dict[str, Any], timeout: int) -> dict[str, Any]:
    """The arguments, with those that a cluster provides if one is to be detected.

    Raises ValueError if this process does not run in such a cluster.
    """
    if "process_id" in arguments:
        return arguments
    names = ("coordinator_address", "num_processes", "process_id", "local_device_ids")
    detected = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        *(None,) * len(names), arguments["cluster_detection_method"], timeout
    )
    out = dict(zip(names, detected, strict=True)) | {"cluster_detection_method": "deactivate"}
    if None in (out["coordinator_address"], out["num_processes"], out["process_id"]):
        raise ValueError("it does not name a coordinator, or the number of processes")
    state.global_state.coordinator_address = out["coordinator_address"]
    state.global_state.process_id = out["process_id"]
    return out


def _join(arguments: dict[str, Any], timeout: int, heartbeat_seconds: int) -> None:
    """Starts JAX's distributed system and `watch`. Raises PortTaken, and whatever JAX raises."""
    address, index = arguments["coordinator_address"], arguments["process_id"]
    host, _, port = address.rpartition(":")
    count = arguments["num_processes"]
    global _is_joined, _roll
    if index == 0:
        _check_free(int(port))
        _roll = roll_call.listen(int(port), count)
    with roll_call.announced(host.strip("[]"), int(port), index):
        jax.distributed.initialize(
            **arguments | {"coordinator_address": watch.relay(address) if index else address},
            initialization_timeout=timeout + _GRACE_SECONDS,
            heartbeat_timeout_seconds=2 * heartbeat_seconds + _GRACE_SECONDS,  # `watch` acts first
        )
    watch.start(
        state.global_state.client,
        host.strip("[]"),
        index,
        count,
        heartbeat_seconds,
        is_joined=lambda: state.global_state.client is not None,
    )
    atexit.register(watch.say_goodbye)
    _is_joined = True


def _check_free(port: int) -> None:
    """Raises PortTaken if process 0 cannot listen: XLA would end in a segmentation fault."""
    try:
        watch.listen(port).close()
    except OSError as error:
        raise PortTaken(
            f"cannot listen on port {port} ({os.strerror(error.errno)}): end what listens there, "
            "perhaps an earlier run, or set another port in distributed.coordinator_address, for "
            "all processes"
        ) from error


def resolve(settings: Any, environment: Mapping[str, str]) -> dict[str, Any] | None:
    """The arguments of `jax.distributed.initialize`; None for a single-process run.

    Raises:
      UserError: as for `start`.
    """
    cluster, address = settings.cluster, settings.coordinator_address
    count, index = settings.process_count, settings.process_index
    check_choice("distributed.cluster", cluster, CLUSTERS)
    check_constraints("distributed", settings, CONSTRAINTS)
    if cluster != "none":
        if address or count != -1 or index != -1:
            raise UserError(
                f"distributed.cluster='{cluster}' finds the coordinator and the processes itself; "
                "leave distributed.coordinator_address, process_count and process_index as they "
                "are, or set cluster to 'none'"
            )
        return {"cluster_detection_method": None if cluster == "auto" else cluster}
    if not address:
        _check_alone(count, index, environment)
        return None
    host, _, port = address.rpartition(":")
    is_port = re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 2**16
    if not host or not is_port:
        raise UserError(f"distributed.coordinator_address='{address}' is not HOST:PORT")
    if count < 1 or not 0 <= index < count:
        raise UserError(
            f"distributed.process_count={count} and process_index={index}: with a "
            "coordinator_address the count must be at least 1 and the index below it, from 0"
        )
    return {
        "coordinator_address": address,
        "num_processes": count,
        "process_id": index,
        # Ignores the environment; the process uses every device of its host.
        "cluster_detection_method": "deactivate",
    }


def _check_alone(count: int, index: int, environment: Mapping[str, str]) -> None:
    """Raises UserError if the environment suggests several processes but the config does not."""
    if count > 1 or index > 0:
        raise UserError(
            f"distributed.process_count={count} and process_index={index} need a "
            "distributed.coordinator_address, HOST:PORT of process 0"
        )
    for name, how_many in _PROCESS_COUNTS.items():
        if count == -1 and (process_count := how_many(environment)) > 1:
            raise UserError(
                f"this is one of {process_count} processes ({name}): say "
                f"--config.distributed.cluster={name} to train on all of them, or "
                "--config.distributed.process_count=1 to train in this process only"
            )


def wait_for_all(what: str, timeout_seconds: int) -> None:
    """A barrier; does nothing in a single-process run.

    Processes compile at their own pace, and Gloo, which carries the collectives of CPUs, waits at
    most 30 seconds for the last one to reach the first collective.

    Args:
      what: what each process has done before it, such as "compiled"; used once in a run.

    Raises:
      RunError: the others did not arrive in time.
    """
    client = state.global_state.client
    if client is None or jax.process_count() == 1:
        return
    try:
        client.wait_at_barrier(f"igerg_jax/{what}", timeout_in_ms=timeout_seconds * 1000)
    except Exception as error:  # XlaRuntimeError, which has no public name
        raise RunError(
            f"process {jax.process_index()} of {jax.process_count()}: {what}, but not all others "
            f"within {timeout_seconds} s ({_one_line(error)})"
        ) from error


def abandon(code: int, is_stop: bool = False) -> None:
    """Makes the exit of this process immediate, with `code`; does nothing in a single-process run.

    An orderly exit waits until every process exits: one that failed would hang, and so would
    whatever waits for its exit code.

    Args:
      is_stop: the run is being stopped on request; the others must not take this for a failure.
    """
    if state.global_state.client is None and state.global_state.service is None:
        return

    atexit.unregister(watch.say_goodbye)
    # `atexit` calls the last one registered first.
    atexit.register(os._exit, code)
    if is_stop:
        if state.global_state.service is not None:
            atexit.register(time.sleep, _STOP_SECONDS)  # the others still query it
        atexit.register(watch.say_goodbye)
    atexit.register(sys.stderr.flush)
    atexit.register(sys.stdout.flush)


def client() -> Any | None:
    """JAX's client for barriers and shared keys; None in a single-process run or before connecting.

    A client that is used before it is connected aborts the process.
    """
    return state.global_state.client if _is_joined else None


@contextlib.contextmanager
def failures_explained(heartbeat_seconds: int) -> Iterator[None]:
    """Delays an error, such as a failed collective's, so that `watch` can name its cause first.

    If another process is lost, `watch` ends this one meanwhile, with a message that names it.
    """
    try:
        yield
    except (UserError, RunError):
        raise
    except Exception as error:
        if watch.is_watching():
            timed_out = "timed out" in str(error).lower() or "timeout" in str(error).lower()
            time.sleep(watch.GRACE_SECONDS + (heartbeat_seconds if timed_out else 0) + 2)
        raise


def _who(arguments: Mapping[str, Any]) -> str:
    if "process_id" in arguments:
        index, count = arguments["process_id"], arguments["num_processes"]
        return f"process {index} of {count}, coordinator {arguments['coordinator_address']}"
    address = state.global_state.coordinator_address or "not found yet"
    return f"process {state.global_state.process_id}, coordinator {address}"


def _explain(arguments: Mapping[str, Any], timeout: int, error: Exception | None) -> str:
    """One message: which process could not reach which, and what to check."""
    address = arguments.get("coordinator_address") or state.global_state.coordinator_address
    if error is not None and address is None:
        method = arguments["cluster_detection_method"] or "auto"
        return (
            f"distributed.cluster={method}: this process does not run in such a cluster "
            f"({_one_line(error)}); set distributed.coordinator_address, process_count and "
            "process_index"
        )
    if address is None:
        reason = f"the cluster did not name a coordinator within {timeout} s"
    elif isinstance(error, PortTaken):
        reason = str(error)
    elif refusal := _probe(address):
        within = f" within {timeout} s" if error is None else ""
        reason = (
            f"cannot reach the coordinator {address}{within} ({refusal}); check that process 0 "
            "runs there and that no firewall closes the port"
        )
    elif error is not None:
        reason = _one_line(error)
    else:
        reason = (
            f"the coordinator answers, but not all processes were there within {timeout} s"
            f"{_missing()}; check that each was started, with the same distributed.process_count"
        )
    return f"{_who(arguments)}: {reason}"


def _missing() -> str:
    """In process 0, names the processes not heard from; elsewhere, refers to process 0."""
    if _roll is None:
        return " (process 0 reports which)"
    names = [str(index) for index in _roll.missing()]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f": no word from process {', '.join(names[:8])}{more}" if names else ""


def _probe(address: str) -> str:
    """Why a TCP connection to "host:port" cannot be made; "" if it can."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS):
            return ""
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
