"""Which addresses a sink may call: the guard against server-side request forgery.

A URL in a configuration or an event can name an address inside the network that its author could not reach. Unless it
is allowed, only globally reachable unicast addresses are called (RFC 6890), IPv4 inside IPv6 included. The name is
resolved once and the connection goes to the address that was judged, so that a second answer of the DNS cannot change
it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING

from headrace.errors import ConnectionFailed, RefusedError

if TYPE_CHECKING:
    from aiohttp.abc import AbstractResolver

__all__ = ["guarded_resolver", "is_public", "resolve"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: Address) -> bool:
    """Whether the address is reachable from everywhere: not private, loopback, link-local, multicast or reserved."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is None and address.teredo is not None:
            inner = address.teredo[1]
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved


async def resolve(host: str, port: int, *, allow_private: bool) -> list[str]:
    """The addresses of a host.

    Raises:
        RefusedError: one of them is not public and that is not allowed.
        ConnectionFailed: the name does not resolve.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectionFailed(f"the host {host!r} cannot be resolved: {error.strerror}; check its name") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not allow_private:
        for text in addresses:
            if not is_public(ipaddress.ip_address(text.partition("%")[0])):
                raise RefusedError(
                    f"the host {host!r} has the address {text}, which is private, link-local or reserved; "
                    "allow_private=True allows it where it is meant"
                )
    return addresses


def guarded_resolver(allow_private: bool) -> AbstractResolver:
    """A resolver that judges what it found: the connection goes to the very address that was looked at."""
    from aiohttp.abc import AbstractResolver, ResolveResult

    class Guarded(AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> list[ResolveResult]:
            return [
                ResolveResult(
                    hostname=host,
                    host=address,
                    port=port,
                    family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                    proto=0,
                    flags=socket.AI_NUMERICHOST,
                )
                for address in await resolve(host, port, allow_private=allow_private)
            ]

        async def close(self) -> None:
            return None

    return Guarded()
