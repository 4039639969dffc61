"""File systems of their own, for tests of full disks and of cloned files. They need root."""
import errno
import fcntl
import os
import pathlib
import struct
import subprocess
import unittest

FS_IOC_FIEMAP = 0xC020660B
FIEMAP_FLAG_SYNC = 1


def mounted(test: unittest.TestCase, folder: pathlib.Path, size: int) -> pathlib.Path:
    """Mounts a file system of `size` bytes for the time of the test, or skips the test."""
    if os.geteuid() != 0:
        raise unittest.SkipTest("only root may mount a small file system")
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise unittest.SkipTest(f"no small file system here: {done.stderr.strip()}")
    test.addCleanup(subprocess.run, ["umount", "--lazy", str(folder)], check=True)
    return folder


def mounted_image(test: unittest.TestCase, folder: pathlib.Path, kind: str) -> pathlib.Path:
    """Mounts a new file system from an image beside the folder for the time of the test, or skips
    the test."""
    if os.geteuid() != 0:
        raise unittest.SkipTest("only root may mount a file system")
    image = folder.with_suffix(".image")
    with open(image, "wb") as file:
        file.truncate(512 << 20)
    folder.mkdir()
    for command in ([f"mkfs.{kind}", "-q", image], ["mount", "-o", "loop", image, folder]):
        try:
            subprocess.run(command, capture_output=True, text=True, check=True)
        except FileNotFoundError as error:
            raise unittest.SkipTest(f"{command[0]} is not installed") from error
        except subprocess.CalledProcessError as error:
            raise unittest.SkipTest(f"no {kind} here: {error.stderr.strip()}") from error
    test.addCleanup(subprocess.run, ["umount", "--lazy", str(folder)], check=True)
    return folder


def first_extent(path: pathlib.Path) -> int:
    """Where on the device a file begins: the ioctl FS_IOC_FIEMAP of linux/fiemap.h."""
    head = struct.Struct("=QQIIII")  # start, length, flags, mapped, count, reserved
    extent = struct.Struct("=QQQQQIIII")  # logical, physical, length, ...
    request = bytearray(head.pack(0, 1, FIEMAP_FLAG_SYNC, 0, 1, 0) + bytes(extent.size))
    with open(path, "rb") as file:
        fcntl.ioctl(file, FS_IOC_FIEMAP, request)
    return extent.unpack_from(request, head.size)[1]


def resize(folder: pathlib.Path, size: int):
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def fill(path: pathlib.Path):
    """Writes a file until its file system has no room."""
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
