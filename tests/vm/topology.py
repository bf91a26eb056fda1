"""PCI devices of a guest, and where they will be.

    machine = Topology()
    disk = machine.nvme(file)                 # "01:00.0": alone in its IOMMU group, behind a root port
    with Guest(bed, "name", machine.devices, kernel="full", iommu="intel") as guest: ...

Root ports take one bus number each in the order they are made; firmware numbers buses in that order. Every device has
QEMU's id NAME (for device_del), given or made of its address (identifier).
"""

import itertools


class Topology:
    def __init__(self):
        self.devices = []
        self.ports = itertools.count(0x10)  # device numbers of root ports on bus 0
        self.bus = 0  # the last bus number given out
        self.disks = itertools.count(1)

    def add(self, driver, bus, where, name=None, **options):
        """A device at the BDF WHERE; the other numbers of its place come from there."""
        slot, function = where.split(":")[1].split(".")
        self.devices.append({"driver": driver, "id": name or identifier(where), "bus": bus,
                             "addr": f"{int(slot, 16):#x}.{function}", **options})
        return where

    def root_port(self):
        """A new root port: QEMU's name of the bus behind it. The bus's number is self.bus."""
        slot = next(self.ports)
        self.bus += 1
        port = f"port{self.bus}"
        self.devices.append({"driver": "pcie-root-port", "id": port, "bus": "pcie.0", "addr": f"{slot:#x}",
                             "chassis": self.bus, "slot": self.bus})
        return port

    def behind_port(self, driver, name=None, **options):
        """Any one device behind a root port of its own."""
        port = self.root_port()
        return self.add(driver, port, f"{self.bus:02x}:00.0", name, **options)

    def drive(self, file):
        number = next(self.disks)
        self.devices.append(f"-drive file={file},format=raw,if=none,id=drive{number},cache=unsafe")
        return f"drive{number}", f"DISK{number}"

    def nvme(self, file, name=None, **options):
        """A disk with the content of FILE; its serial number is DISK1, DISK2 and so on. cmb_size_mb=N: with a controller
        memory buffer of so many MiB, which is BAR 2."""
        drive, serial = self.drive(file)
        return self.behind_port("nvme", name, serial=serial, drive=drive, **options)

    def nvme_with_vfs(self, file, vfs=4):
        """A disk that can have virtual functions (nvme_vf), once the guest made them. They do nothing until the primary
        controller gave them queues: lending.bring_vf_online."""
        drive, serial = self.drive(file)
        subsystem = f"subsystem-{drive}"
        self.devices.append({"driver": "nvme-subsys", "id": subsystem})
        where = self.behind_port("nvme", serial=serial, subsys=subsystem, sriov_max_vfs=vfs,
                                 sriov_vq_flexible=2 * vfs, sriov_vi_flexible=vfs)
        self.devices.append({"driver": "nvme-ns", "drive": drive, "bus": identifier(where)})
        return where

    def network(self, driver, peer=None):
        """A network interface; what it sends comes back to PEER, another one's address, or goes nowhere."""
        where = self.behind_port(driver, netdev=f"net-{self.bus + 1}")
        hub = int((peer or where).split(":")[0], 16)
        self.devices.insert(0, f"-netdev hubport,id=net-{self.bus},hubid={hub}")
        return where

    def igb(self, peer=None):
        """Can have up to 8 virtual functions (igb_vf), once its driver is loaded and the guest made them."""
        return self.network("igb", peer)

    def e1000e(self, peer=None):
        return self.network("e1000e", peer)

    def edu(self):
        """QEMU's teaching device (docs/specs/edu.rst): registers, DMA, MSI or INTx; no MSI-X and no reset."""
        return self.behind_port("edu", dma_mask=2**64 - 1)

    def edu_on_root_bus(self, slot=0x8):
        return self.add("edu", "pcie.0", f"00:{slot:02x}.0", dma_mask=2**64 - 1)

    def two_functions(self):
        """A network interface and a sound device, functions of one: they share a group, without ACS between them."""
        port = self.root_port()
        network = self.add("e1000e", port, f"{self.bus:02x}:00.0", multifunction=True)
        return network, self.add("intel-hda", port, f"{self.bus:02x}:00.1")

    def twins(self):
        """Two network interfaces, functions of one: they share a group, and each has a reset of its own."""
        port = self.root_port()
        return [self.add("e1000e", port, f"{self.bus:02x}:00.{function}", multifunction=True) for function in (0, 1)]

    def switch(self):
        """Two edu devices behind a switch whose downstream ports have no ACS: its ports and devices share groups."""
        upstream = self.add("x3130-upstream", self.root_port(), f"{self.bus:02x}:00.0")
        self.bus += 1
        inner, found = self.bus, []
        for slot in range(2):
            port = self.add("xio3130-downstream", identifier(upstream), f"{inner:02x}:{slot:02x}.0",
                            chassis=0x80 + inner, slot=slot)
            self.bus += 1
            found.append(self.add("edu", identifier(port), f"{self.bus:02x}:00.0", dma_mask=2**64 - 1))
        return found

    def bridge(self):
        """Three devices on a conventional bus behind a bridge, hence one group: edu, edu, pci-testdev."""
        bridge = self.add("pcie-pci-bridge", self.root_port(), f"{self.bus:02x}:00.0")
        self.bus += 1
        # Device number 0 is the bridge's own hot-plug controller's.
        return [self.add(driver, identifier(bridge), f"{self.bus:02x}:{slot:02x}.0", **options)
                for slot, (driver, options) in enumerate(
                    [("edu", {"dma_mask": 2**64 - 1}), ("edu", {"dma_mask": 2**64 - 1}), ("pci-testdev", {})], 1)]


def nvme_vf(where, number=1):
    return f"{where[:-1]}{number}"


def igb_vf(where, number=1):
    """82576: the first is 128 function numbers on, then every second one."""
    return f"{where[:3]}10.{2 * (number - 1)}"


def identifier(where):
    return "dev-" + where.replace(":", "-").replace(".", "-")


def vfio_user(socket, name=None):
    """A device that another process serves."""
    named = {"id": name} if name else {}
    return {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": str(socket)}, **named}


def blank_disk(path, size=64 << 20):
    with open(path, "wb") as file:
        file.truncate(size)
    return path
