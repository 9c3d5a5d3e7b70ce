"""The device's Flower ClientApp (``flwr run`` loads it as ``client.app:app``)."""

from mmfed.federated.participant import client_app

app = client_app()
