"""The steps of a scenario on a simulated OPC UA server: statuses, frozen and ramping values, slow answers, the clock.

What concerns the connection is not in here: simulators.faults stands in front of the link.
"""

from __future__ import annotations

from simulators.opcua import OpcuaServer
from simulators.opcua_history import Spell
from simulators.scenario import Heal, Step
from simulators.signals import number_of


def begin(server: OpcuaServer, step: Step, begun: int) -> Heal:
    """Carry out a step that begins now (ns); give what ends it."""
    if step.fault == "clock":
        return _clock(server, step)
    hit = [
        variable
        for variable in server.variables
        if variable.folder[0] == step.device and step.tag in ("", variable.tag.name)
    ]
    rows = [row for variable in hit for row in variable.rows if row >= 0]
    ramps = {}
    match step.fault:
        case "freeze":
            server.bank.stop(rows, begun)
        case "ramp":
            for row in rows:
                number = number_of(server.bank.signals[row], step.options.to or 0.0)
                ramps[row] = server.bank.ramp(row, number, begun, begun + round((step.lasts or 0.0) * 1e9 / 2))
        case "status":
            server.spoilt[[variable.index for variable in hit]] = step.options.status or 0
        case "slow":
            server.delays |= {variable.index: step.options.delay or 0.0 for variable in hit}
    server.look_again()
    spells = []
    for variable in hit if step.fault in ("freeze", "status", "ramp") else ():
        spells.append(Spell(begun, step.options.status or 0, ramps.get(variable.row)))
        server.history.note(variable.index, spells[-1])

    async def heal() -> None:
        server.bank.go_on(rows if step.fault in ("freeze", "ramp") else ())
        for variable in hit:
            if step.fault == "slow":
                server.delays.pop(variable.index, None)
            elif step.fault == "status":
                server.spoilt[variable.index] = 0
        for spell in spells:
            spell.end = server.clock()
        server.look_again()

    return heal


def _clock(server: OpcuaServer, step: Step) -> Heal:
    server.skew = round((step.options.by or 0.0) * 1e9)
    server.look_again()

    async def heal() -> None:
        server.skew = 0
        server.look_again()

    return heal
