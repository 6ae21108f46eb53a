"""Modbus over TCP, TLS, UDP, RTU and ASCII. `spec` is what the gateway loads; README.md is what people read."""
