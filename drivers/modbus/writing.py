"""Writing one tag: read what is there, write, read back.

    coil                      FC 5, or FC 15 where the device does not know FC 5
    one register              FC 6, or FC 16 where the device does not know FC 6
    several registers         FC 16
    bits, half a register     FC 22 (mask write), or read-modify-write where the device's bit_writes says so

A write that is not answered is never repeated: nobody knows whether it happened. Reading back shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drivers.modbus.address import ModbusSource
from drivers.modbus.encode import Value, encode, whole
from drivers.modbus.frames import exception_text
from drivers.modbus.line import Ended, Outcome, Pace
from drivers.modbus.scan import Scan
from gateway import quality as q
from gateway.contracts import Write, Written
from gateway.errors import NoAnswer
from gateway.model import Kind, TagTable

if TYPE_CHECKING:
    from drivers.modbus.driver import ModbusDriver
    from drivers.modbus.spec import ModbusDevice

_STATUS: Final = {
    0x01: q.BAD_NOT_SUPPORTED, 0x02: q.BAD_NOT_WRITABLE, 0x03: q.BAD_OUT_OF_RANGE, 0x04: q.BAD_DEVICE_FAILURE,
    0x05: q.BAD_RESOURCE_UNAVAILABLE, 0x06: q.BAD_RESOURCE_UNAVAILABLE,
}  # fmt: skip


def refusal(write: Write) -> tuple[int, str] | None:
    """Say why a value cannot be written, whatever the device thinks of it: quality and reason; None where it can."""
    source: ModbusSource = write.tag.source
    if source.area not in ("coil", "holding"):
        return q.BAD_NOT_WRITABLE, f"{source.area} is read-only in Modbus"
    if source.flags or source.power is not None:
        return q.BAD_NOT_WRITABLE, "a tag with flags or scale_power cannot be written"
    try:
        pdus_of(source, write.value)
    except ValueError as error:
        return q.BAD_OUT_OF_RANGE, str(error)
    return None


async def write_one(driver: ModbusDriver, device: ModbusDevice, write: Write) -> Written:
    """Set one value. Raises NotConnected; everything else is in the result."""
    refused = refusal(write)
    if refused is not None:
        return Written(None, None, *refused)
    source: ModbusSource = write.tag.source
    pdus = pdus_of(source, write.value)
    pace = driver.pace(device)
    before = await _value(driver, write)
    outcome = await _send(driver, pace, device, source, pdus)
    after = await _value(driver, write)
    if outcome.ended is Ended.TIMEOUT:
        reason = f"no answer within {pace.timeout:g} s: the write may or may not have happened, and is not repeated"
        return Written(before, after, q.BAD_TIMEOUT, reason)
    if outcome.ended is Ended.EXCEPTION:
        reason = f"the device refused with {outcome.note}"
        return Written(before, after, _STATUS.get(outcome.code, q.BAD_COMMUNICATION_ERROR), reason)
    if after is None:
        return Written(before, after, q.UNCERTAIN, "written, but it could not be read back")
    expected = read_as(source, write.value)
    if after != expected:
        return Written(before, after, q.UNCERTAIN, f"the device holds {after} after {expected} was written")
    return Written(before, after, q.GOOD)


async def _send(
    driver: ModbusDriver, pace: Pace, device: ModbusDevice, source: ModbusSource, pdus: list[bytes]
) -> Outcome:
    """Send the first form of the write that the device knows. Exception 01 means that nothing was done."""
    if pdus[0][0] == 22 and device.bit_writes == "read-modify-write":
        return await _read_modify_write(driver, pace, source, pdus[0])
    outcome = Outcome(Ended.TIMEOUT, 0)
    for pdu in pdus:
        outcome, _ = await driver.ask(pace, pdu)
        if outcome.ended is not Ended.EXCEPTION or outcome.code != 0x01:
            break
    if outcome.ended is Ended.EXCEPTION:
        note = exception_text(outcome.code)
        if outcome.code == 0x01 and pdus[0][0] == 22:
            note += ": it has no mask write (FC 22); bit_writes: read-modify-write on the device allows it without"
        return Outcome(outcome.ended, 0, outcome.code, note)
    return outcome


async def _read_modify_write(driver: ModbusDriver, pace: Pace, source: ModbusSource, mask: bytes) -> Outcome:
    outcome, answer = await driver.ask(pace, bytes((3,)) + mask[1:3] + b"\0\1")
    if outcome.ended is not Ended.DONE:
        return Outcome(outcome.ended, 0, outcome.code, exception_text(outcome.code))
    keep, bits = int.from_bytes(mask[3:5], "big"), int.from_bytes(mask[5:7], "big")
    word = (int.from_bytes(answer[2:4], "big") & keep) | (bits & ~keep & 0xFFFF)
    outcome, _ = await driver.ask(pace, bytes((6,)) + mask[1:3] + word.to_bytes(2, "big"))
    return Outcome(outcome.ended, 0, outcome.code, exception_text(outcome.code))


async def _value(driver: ModbusDriver, write: Write) -> Value | None:
    """Read the tag alone; None where it cannot be read."""
    table = TagTable(write.device, "", write.tag.kind, (write.tag,))
    plan = driver.plan((table,))
    request = plan.blocks[0].request
    scan = Scan(plan)
    scan.begin(0)
    try:
        outcome, answer = await driver.ask(plan.pace, request.pdu)
    except NoAnswer:
        return None
    if outcome.ended is not Ended.DONE:
        return None
    if request.function > 2:
        scan.buffer[: len(answer) - 2] = memoryview(answer)[2:]
    else:
        scan.buffer[0] = answer[2] & 1
    batch = scan.batches(0)[0]
    return (
        None
        if batch.quality[0] >= q.BAD
        else batch.value[0].item()
        if write.tag.kind is not Kind.TEXT
        else batch.value[0]
    )


def read_as(source: ModbusSource, value: Value) -> Value:
    """Give what reading back shows where the value was taken: float32 rounds, text loses its blanks."""
    if isinstance(value, str):
        return value.rstrip(" ")
    if source.type.startswith("float"):
        import struct

        code = {"float16": ">e", "float32": ">f", "float64": ">d"}[source.type]
        rounded: float = struct.unpack(code, struct.pack(code, value))[0]
        return rounded
    return value


def pdus_of(source: ModbusSource, value: Value) -> list[bytes]:
    """Give the PDUs that write a value: the usual one, then one for devices that do not know it. Raises ValueError."""
    if source.area == "coil":
        state = whole(source, value)
        address = source.address.to_bytes(2, "big")
        return [b"\x05" + address + (b"\xff\0" if state else b"\0\0"), b"\x0f" + address + b"\0\1\1" + bytes((state,))]
    if source.bits or source.type in ("int8", "uint8"):
        return [_mask(source, value)]
    data = encode(source, value)
    address = source.address.to_bytes(2, "big")
    many = b"\x10" + address + (len(data) // 2).to_bytes(2, "big") + bytes((len(data),)) + data
    return [b"\x06" + address + data, many] if len(data) == 2 else [many]


def _mask(source: ModbusSource, value: Value) -> bytes:
    """Give the mask write of a bit, of bits within one register, or of half a register."""
    number = whole(source, value)
    if source.bits:
        first, width = source.bit, source.bits
        if first // 16 != (first + width - 1) // 16:
            raise ValueError(f"{source} crosses a register: it cannot be written in one step")
        # which register of the value holds the bit, and whether its bytes are swapped there
        letter = "ABCDEFGH"[len(source.order) - 1 - first // 8]
        place = source.order.index(letter)
        within = first % 8 + (8 if place % 2 == 0 else 0)
        if width > 8 - first % 8 and source.order.index("ABCDEFGH"[len(source.order) - 2 - first // 8]) != place - 1:
            raise ValueError(f"{source}: bits across swapped bytes cannot be written in one step")
        register = source.address + place // 2
    else:
        register, within, width = source.address, 8 if source.half == "high" else 0, 8
        number &= 0xFF
    ones = (1 << width) - 1
    keep = 0xFFFF & ~(ones << within)
    return b"\x16" + register.to_bytes(2, "big") + keep.to_bytes(2, "big") + (number << within).to_bytes(2, "big")
