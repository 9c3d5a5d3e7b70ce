"""The coordinator's Flower ServerApp (``flwr run`` loads it as ``server.app:app``)."""

from mmfed.federated.coordinator import server_app

app = server_app()
