"""The coordinator's Flower ServerApp (``flwr run`` loads it as ``server.app:app``)."""

import sys

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from mmfed.errors import MmfedError
from mmfed.federated.coordinator import server_app

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Coordinate one run; README.md lists the run config's keys."""
    try:
        server_app()(grid, context)
    except MmfedError:
        sys.tracebacklimit = 0  # Flower logs what is raised here: of a person's mistake, the line and its mend
        raise
