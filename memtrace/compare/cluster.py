"""The cells of a study on a Dask cluster."""

from __future__ import annotations

import uuid
from pathlib import Path

from ..errors import ConfigError
from .cells import Done, source_digest
from .places import needed
from .pool import Told, Work, lost_cell

TIMEOUT = "30s"
"""To find the scheduler."""


def run_cells_on(address: str, work: Work, cells: str, told: Told) -> dict[str, Done]:
    """
    Run cells on the workers of a scheduler.

    A worker that dies loses nothing but the cell it was at, which another one runs; a cell at which several died has
    no result, and says so. A cell that two of them ran is one folder, whoever was first. All must see ``cells`` and
    the traces under the same names.

    Parameters
    ----------
    address
        ``tcp://host:8786``, or the scheduler's file.

    Returns
    -------
    By key; see ``pool.run_cells``.

    Raises
    ------
    ConfigError
        There is no such scheduler, or it has workers with another memtrace.
    """
    distributed = needed("distributed")
    is_file = "://" not in address
    if is_file and not Path(address).is_file():
        raise ConfigError(f"--dask {address}: no such scheduler file; expected one, or an address like "
                          "tcp://host:8786.")
    where = {"scheduler_file": address} if is_file else {"address": address}
    try:
        client = distributed.Client(**where, timeout=TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--dask {address}: no scheduler answers ({error}); expected a running one. Start it with "
                          "`dask scheduler`.") from None
    from .cluster_worker import Benches, run_there

    done: dict[str, Done] = {}
    study = f"memtrace-{uuid.uuid4().hex}"
    with client:
        source = source_digest()
        client.register_plugin(Benches(study))
        futures = {client.submit(run_there, study, cell, key, cells, source, key=f"memtrace-{key}", retries=2): key
                   for cell, key in work}
        try:
            for future in distributed.as_completed(list(futures), loop=client.loop):
                key = futures[future]
                try:
                    done[key] = future.result()
                except distributed.KilledWorker:
                    done[key] = lost_cell(key, "each worker that took it died")
                told(done[key])
        finally:
            client.cancel([future for future in futures if not future.done()])
            client.unregister_worker_plugin(study)
    return done
