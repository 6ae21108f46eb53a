"""Stand-ins for the plant, made from the same site file the gateway reads."""
