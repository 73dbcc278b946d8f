"""Makes initramfs archives for the Linux guests of the tests."""

import os


class Archive:
    """A cpio archive in the `newc` format, collected first and written in sorted order."""

    def __init__(self):
        self.entries = {"dev/console": (0o020600, b"", (5, 1))}

    def add(self, path, mode, data, device=(0, 0)):
        parent = os.path.dirname(path)
        if parent and parent not in self.entries:
            self.directory(parent)
        self.entries[path] = (mode, data, device)

    def directory(self, path):
        self.add(path, 0o040755, b"")

    def link(self, path, target):
        self.add(path, 0o120777, target.encode())

    def file(self, path, source, mode=0o100644):
        with open(source, "rb") as content:
            self.add(path, mode, content.read())

    def program(self, path, source):
        self.file(path, source, 0o100755)

    def write(self, target):
        with open(target, "wb") as out:
            for inode, path in enumerate(sorted(self.entries), 1):
                out.write(self.record(inode, path, *self.entries[path]))
            out.write(self.record(0, "TRAILER!!!", 0, b"", (0, 0)))

    @staticmethod
    def record(inode, path, mode, data, device):
        name = path.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        return header + bytes(-len(header) % 4) + data + bytes(-len(data) % 4)
