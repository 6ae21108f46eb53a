"""The steps of a scenario on a simulated Modbus link: exceptions, silence, slowness, word order, values.

What concerns the connection is not in here: simulators.faults stands in front of the link.
"""

from __future__ import annotations

from simulators.modbus import ModbusServer
from simulators.modbus_map import holds
from simulators.scenario import Heal, Step
from simulators.signals import number_of


def begin(server: ModbusServer, step: Step, now: int) -> Heal:
    """Carry out a step now (ns); give what ends it."""
    if step.fault in ("freeze", "ramp"):
        return _values(server, step, now)
    (unit,) = (device.options.unit_id for device in server.link.devices if device.name == step.device)
    fault = server.faults[unit]

    def put(*, on: bool) -> None:
        match step.fault:
            case "silence":
                fault.silent = on
            case "slow":
                fault.delay = (step.options.delay or 0.0) if on else 0.0
            case "exception":
                fault.exception = (step.options.code or 0) if on else 0
            case "word-order":
                (server.registers.swapped.add if on else server.registers.swapped.discard)(unit)
                server.registers.look_again()

    async def heal() -> None:
        put(on=False)

    put(on=True)
    return heal


def _values(server: ModbusServer, step: Step, now: int) -> Heal:
    registers, bank = server.registers, server.registers.bank
    rows = [row for (device, tag), row in registers.rows.items() if device == step.device and step.tag in ("", tag)]
    if step.fault == "freeze":
        bank.stop(rows, now)
    for row in rows if step.fault == "ramp" else ():
        signal = bank.signals[row]
        (source,) = {entry.source for entry in server.entries if entry.fills and entry.signal is signal}
        number = number_of(signal, step.options.to or 0.0, holds(signal.tag, source))
        bank.ramp(row, number, now, now + round((step.lasts or 0.0) * 1e9 / 2))
    registers.look_again()

    async def heal() -> None:
        bank.go_on(rows)
        registers.look_again()

    return heal
