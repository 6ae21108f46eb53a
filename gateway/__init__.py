"""PlantBridge 厂云桥: machines to the cloud, losing nothing on the way."""

__version__ = "0.1.0"
