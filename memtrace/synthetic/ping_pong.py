"""
ping-pong: what one CPU allocates, another frees.

Source: the case that perf kmem counts as "ping-pong", and that SLUB's remote free and SLAB's alien and shared arrays
exist for; every producer and consumer has it (block and network completions, message queues, hackbench's pipes).
CPUs form pairs: the even one sends, the odd one frees what it receives and answers; the answers go the other way.
"""

from __future__ import annotations

from collections.abc import Mapping

from .tape import Tape
from .workload import Parameter, Rounds, Workload


def _rows(values: Mapping[str, int], cpus: int) -> int:
    return 4 * values["burst"]


def _period_ns(values: Mapping[str, int], cpus: int) -> int:
    pairs = max(1, cpus // 2)
    return max(1, values["burst"] * values["gap"] // pairs)


def _play(tape: Tape, rounds: Rounds) -> None:
    burst, gap, queued = rounds["burst"], rounds["gap"], rounds["queued"]
    pairs = max(1, rounds.cpus // 2)
    producer = (rounds.number % pairs * 2)[:, None]
    consumer = (producer + 1) % rounds.cpus
    sent = rounds.times(burst, gap)
    read = sent + queued * gap + rounds.lives(gap, sent.shape)
    tape.objects(sent, read, size=rounds["size"], cpu=producer, free_cpu=consumer, site="queue_send",
                 free_site="queue_receive")  # fmt: skip
    answered = read + 1
    tape.objects(answered, answered + queued * gap, size=rounds["answer"], cpu=consumer, free_cpu=producer,
                 site="queue_answer", free_site="queue_done")  # fmt: skip


WORKLOAD = Workload(
    name="ping-pong",
    about="producer and consumer on different CPUs: every object is freed where it was not allocated",
    source="perf kmem's ping-pong column; hackbench and other message passing",
    parameters=(
        Parameter("size", "256", "size", "of a message", most=65536),
        Parameter("answer", "64", "size", "of its answer", most=65536),
        Parameter("burst", "64", "count", "messages in a row from one producer"),
        Parameter("queued", "32", "count", "messages on their way at a time"),
        Parameter("gap", "1us", "time", "between two messages"),
    ),
    rows=_rows,
    period_ns=_period_ns,
    play=_play,
)
