#!/usr/bin/python3
"""peers.py PORT : many nodes in one program, for a lender that connects to them at 127.0.0.1:PORT, each under the id
that the lender's hello asks for. They read what they are told and forget it; those that hold a loan send heartbeats.

Commands on standard input, one a line, each answered by "ok" or why not: "borrow NODE DEVICE"."""
import asyncio
import json
import struct
import sys


def frame(message):
    payload = json.dumps(message, separators=(",", ":"), sort_keys=True).encode()  # as nodes write it
    return struct.pack("<IB", len(payload) + 1, 0) + payload


class Peers:
    def __init__(self):
        self.streams, self.answers = {}, {}

    async def serve(self, reader, writer):
        try:
            hello = await self.message(reader)
            node = hello["to"]
            writer.write(frame({"type": "hello", "version": 1, "node": node, "to": hello["node"], "boot_id": f"peer {node}",
                                "nonce": hello["nonce"], "fabrics": []}))
            self.streams[node] = writer
            while True:
                message = await self.message(reader)
                if message and message["type"] == "answer":
                    self.answers.pop(node).set_result(message)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def message(self, reader):
        """None for what is of no interest: lists of devices are long."""
        size, _ = struct.unpack("<IB", await reader.readexactly(5))
        payload = await reader.readexactly(size - 1)
        return json.loads(payload) if len(payload) < 1000 and b'"devices"' not in payload else None

    async def borrow(self, node, device):
        answer = self.answers[node] = asyncio.get_running_loop().create_future()
        self.streams[node].write(frame({"type": "borrow", "number": 1, "device": device, "shared": True}))
        reply = await asyncio.wait_for(answer, 20)
        if reply["epoch"] == 0:
            return reply.get("message", "refused")
        asyncio.get_running_loop().create_task(self.beat(self.streams[node]))
        return "ok"

    async def beat(self, writer):
        while not writer.is_closing():
            writer.write(frame({"type": "heartbeat", "asks": False}))
            await asyncio.sleep(0.5)


async def main():
    peers = Peers()
    server = await asyncio.start_server(peers.serve, "127.0.0.1", int(sys.argv[1]), backlog=1024)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    print("ready", flush=True)
    while line := (await commands.readline()).decode():
        _, node, device = line.split()
        print(await peers.borrow(int(node), device), flush=True)
    server.close()


asyncio.run(main())
