"""OPC UA: nodes of a server as tags."""
