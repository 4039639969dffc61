#!/usr/bin/env python3
"""Builds programs against an installed weightcast, found by pkg-config alone, and runs one.

Usage: installed.py STAGE OUTPUT
STAGE is the DESTDIR of `meson install`. The consumer below and every examples/*.cpp are compiled.
"""
import os
import pathlib
import subprocess
import sys

CONSUMER = """
#include <weightcast/result.h>
#include <cstring>
int main() {
    return std::strcmp(weightcast::to_string(weightcast::Code::not_found), "not_found") != 0;
}
"""


def main() -> int:
    stage, output = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
    output.mkdir(parents=True, exist_ok=True)
    package = next(stage.rglob("weightcast.pc"))
    environment = os.environ | {"PKG_CONFIG_SYSROOT_DIR": str(stage),
                                "PKG_CONFIG_PATH": str(package.parent)}
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "weightcast"], check=True,
                           env=environment, capture_output=True, text=True).stdout.split()
    consumer = output / "consumer.cpp"
    consumer.write_text(CONSUMER)
    examples = sorted(pathlib.Path(__file__).resolve().parents[2].glob("examples/**/*.cpp"))
    for source in [consumer, *examples]:
        subprocess.run(["c++", str(source), *flags, "-o", str(output / source.stem)], check=True)
        print(f"compiled {source.name}")
    library_path = environment | {"LD_LIBRARY_PATH": str(package.parent.parent)}
    subprocess.run([str(output / "consumer")], check=True, env=library_path)
    pages = sorted(page.name for page in stage.glob("**/man1/*.1*"))
    print("ran consumer; manual pages:", *pages)
    return 0 if pages else 1


if __name__ == "__main__":
    sys.exit(main())
