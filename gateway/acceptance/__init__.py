"""Is what the site file says of the devices true? Each tag read once from the real device, and a verdict on it.

For the integrator in front of the cabinet, without the daemon. Reads only; a device is asked no more than a scan asks,
and one after the other on a link. `check` reads and judges, `report` writes the acceptance report.
"""
