"""Opening a line: TCP, TLS and UDP by asyncio, serial ports by pymodbus' serial transport.

The one place where what sockets, TLS and serial ports raise becomes NotConnected.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import termios
from typing import TYPE_CHECKING, Any

from drivers.modbus.line import Line
from gateway.errors import NotConnected

if TYPE_CHECKING:
    from drivers.modbus.spec import ModbusLink, ModbusTls


async def open_line(options: ModbusLink) -> Line:
    """Open the link's connection within its connect timeout. Raises NotConnected."""
    endpoint = options.endpoint
    line = Line(endpoint, options.transactions == "checked")
    try:
        async with asyncio.timeout(options.connect_timeout):
            if endpoint.transport == "serial":
                await _open_serial(line, options)
            else:
                await _open_network(line, options)
    except TimeoutError as error:
        line.close()
        raise NotConnected(f"{endpoint} did not accept a connection within {options.connect_timeout:g} s") from error
    except (OSError, ValueError, termios.error) as error:
        line.close()
        raise NotConnected(f"cannot connect to {endpoint}: {_why(error)}") from error
    except BaseException:
        line.close()
        raise
    return line


async def _open_network(line: Line, options: ModbusLink) -> None:
    loop = asyncio.get_running_loop()
    endpoint = options.endpoint
    local = (options.local_address, 0) if options.local_address is not None else None
    if endpoint.transport == "udp":
        await loop.create_datagram_endpoint(lambda: line, local_addr=local, remote_addr=(endpoint.host, endpoint.port))
        return
    keys: dict[str, Any] = {}
    if endpoint.transport == "tls":
        keys = {"ssl": tls_context(options.tls), "server_hostname": options.tls.server_name or endpoint.host}
    await loop.create_connection(lambda: line, endpoint.host, endpoint.port, local_addr=local, **keys)


async def _open_serial(line: Line, options: ModbusLink) -> None:
    # imported here: a site without a serial line needs neither this nor pyserial in memory
    from pymodbus.transport.serialtransport import create_serial_connection

    endpoint = options.endpoint
    pseudo = os.path.realpath(endpoint.path).startswith("/dev/pts/")  # has no parity, and refuses to be given one
    await create_serial_connection(
        asyncio.get_running_loop(),
        lambda: line,
        endpoint.path,
        baudrate=endpoint.baud,
        bytesize=8 if pseudo else endpoint.bits,
        parity="N" if pseudo else endpoint.parity,
        stopbits=endpoint.stop,
        timeout=0,
    )
    await line.made.wait()


def tls_context(tls: ModbusTls) -> ssl.SSLContext:
    """Give the TLS settings of a tls:// link. Raises OSError where a file cannot be read."""
    for path in (tls.ca, tls.certificate, tls.key):
        if path is not None:
            os.close(os.open(path, os.O_RDONLY))  # raises with the file's name, which ssl's errors lack
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _why(error: Exception) -> str:
    """Say what went wrong; for a refused connection in the system's words, without the call that was refused."""
    if isinstance(error, OSError) and error.errno and "Connect call failed" in str(error):
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
