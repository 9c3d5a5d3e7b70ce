"""A worker process: ``python -m mmfed.simulation.worker CONNECTION ALIVE THREADS``, started by ``workers.Workers``.

It computes parts as they come and ends with its connection. It ends at once when the process that started it dies,
however that dies: the system then closes the other end of ALIVE.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from multiprocessing.connection import Connection


def main() -> None:
    """Serve until the connection closes."""
    connection, alive, threads = Connection(int(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
    threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
    import torch

    from mmfed.errors import MmfedError
    from mmfed.simulation.part_work import PartWork

    torch.set_num_threads(threads)  # loading rounds as it does in the other process
    work, arrays = PartWork(), None
    while True:
        try:
            part, new = connection.recv()
        except (EOFError, ConnectionError):
            return
        arrays = arrays if new is None else new
        try:
            done = work(part, arrays)
        except Exception:
            connection.send(traceback.format_exc())
            continue
        if isinstance(done, MmfedError):
            connection.send(done)
            continue
        connection.send((done.shapes, done.realised, len(done.vector)))
        connection.send_bytes(done.vector.data.cast("B"))


def _end_with_parent(alive: int) -> None:
    os.read(alive, 1)  # nothing is ever written
    os._exit(1)


if __name__ == "__main__":
    main()
