#!/bin/sh
# Make the password file from the environment, then become mosquitto.
set -eu
passwords=/mosquitto/data/passwords
rm -f "$passwords"
touch "$passwords"
chmod 600 "$passwords"
mosquitto_passwd -b "$passwords" edge "$EDGE_PASSWORD"
mosquitto_passwd -b "$passwords" ingest "$INGEST_PASSWORD"
chown -R mosquitto:mosquitto /mosquitto/data
exec mosquitto -c /mosquitto/config/mosquitto.conf
