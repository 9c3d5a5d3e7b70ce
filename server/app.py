"""The coordinator's Flower ServerApp (``flwr run`` loads it as ``server.app:app``)."""

import sys

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.coordinator import server_app
from mmfed.federated.run_config import read_run_config

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Coordinate one run; README.md lists the run config's keys."""
    try:
        config, _ = read_run_config(context.run_config)
        if config.privacy.mode != "none" and config.privacy.noise_source != "csprng":
            raise MmfedError(
                ExitCode.PRIVACY,
                "privacy.noise_source = seeded: anyone who knows the seed can subtract the noise.",
                "add privacy.noise_source=csprng to the overrides (seeded noise is for simulations).",
            )
        server_app()(grid, context)
    except MmfedError:
        sys.tracebacklimit = 0  # Flower logs what is raised here: of a person's mistake, the line and its mend
        raise
