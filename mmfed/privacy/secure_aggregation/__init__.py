"""Secure aggregation: the coordinator learns the sum of the devices' vectors and no vector.

The protocol is that of Bonawitz et al. 2017 (figure 4, with the consistency check). Nothing here knows Flower, models
or noise. ``device.Device`` and ``coordinator.Coordinator`` are the two state machines; a round is five exchanges:
advertise, share, mask, agree, unmask.
"""
