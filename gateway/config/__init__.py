"""YAML to frozen models, with every problem at its line and column.

`load_site` reads what the edge daemon runs, `load_cloud` what ingest runs. Both raise ConfigError. In this order:
document (one file to a tree that knows its places), merge (included files and templates), then models and messages
(keys and values), links and tags (the rules between them, and the drivers' reading of addresses).
"""

from gateway.config.cloud import Cloud, load_cloud
from gateway.config.site import load_site
from gateway.site import Site

__all__ = ["Cloud", "Site", "load_cloud", "load_site"]
