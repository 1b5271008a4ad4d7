# SPDX-License-Identifier: Apache-2.0
"""Speaks TCP by itself, through a packet socket that goes past the queue and so past every program on the interface.

Arguments: the node's and the own link address, source, destination, port, words. It connects, sends the words, and
prints what came back: `answered`, `reset`, `ended` or `silence`. Safe Rust has no name for PACKET_QDISC_BYPASS.
"""

import ipaddress
import socket
import struct
import sys
import time

SOL_PACKET, PACKET_QDISC_BYPASS, ETH_P_ALL = 263, 20, 3
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
PATIENCE = 5.0

near, own = (bytes.fromhex(text) for text in sys.argv[1:3])
source, target = (ipaddress.ip_address(text) for text in sys.argv[3:5])
port, words = int(sys.argv[5]), sys.argv[6].encode()
local = 20000 + int(time.monotonic() * 1000) % 10000


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame(flags, sequence, acknowledged, payload=b""):
    ends = source.packed + target.packed
    parts = [local, port, sequence & 0xFFFFFFFF, acknowledged & 0xFFFFFFFF, 5 << 4, flags, 65535, 0, 0]
    length = 20 + len(payload)
    parts[7] = checksum(ends + struct.pack("!HH", 6, length) + struct.pack("!HHIIBBHHH", *parts) + payload)
    segment = struct.pack("!HHIIBBHHH", *parts) + payload
    if source.version == 6:
        return near + own + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, length, 6, 64) + ends + segment
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0, 64, 6, 0) + ends
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    return near + own + b"\x08\x00" + header + segment


def read(data):
    """Flags, sequence number, acknowledged number and payload, if it is of this connection."""
    kind, packet = data[12:14], data[14:]
    if kind == b"\x08\x00" and source.version == 4 and packet[9] == 6:
        header = (packet[0] & 15) * 4
        end, ends = struct.unpack("!H", packet[2:4])[0], packet[12:20]
    elif kind == b"\x86\xdd" and source.version == 6 and packet[6] == 6:
        header, ends = 40, packet[8:40]
        end = 40 + struct.unpack("!H", packet[4:6])[0]
    else:
        return None
    segment = packet[header:end]
    if ends != target.packed + source.packed or struct.unpack("!HH", segment[:4]) != (port, local):
        return None
    sequence, acknowledged = struct.unpack("!II", segment[4:12])
    return segment[13], sequence, acknowledged, segment[(segment[12] >> 4) * 4 :]


def main():
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    wire.bind(("eth0", ETH_P_ALL))
    wire.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
    wire.settimeout(0.5)
    deadline, connected, sequence = time.monotonic() + PATIENCE, False, 1000
    wire.send(frame(SYN, sequence, 0))
    while time.monotonic() < deadline:
        try:
            segment = read(wire.recv(70000))
        except socket.timeout:
            if not connected:
                wire.send(frame(SYN, sequence, 0))
            continue
        if segment is None:
            continue
        flags, theirs, _, payload = segment
        if flags & RST:
            return "reset"
        if flags & SYN and not connected:
            connected = True
            wire.send(frame(ACK, sequence + 1, theirs + 1))
            wire.send(frame(ACK | PSH, sequence + 1, theirs + 1, words))
        elif words in payload:
            wire.send(frame(RST | ACK, sequence + 1 + len(words), theirs + len(payload)))
            return "answered"
        elif flags & FIN:
            return "ended"
    return "silence"


print(main())
