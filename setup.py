"""Builds the C extension ``samemap._core``; everything else is in pyproject.toml.

Two switches for development, both environment variables:

``SAMEMAP_WERROR=1``
    Warnings stop the build (CI sets it; a user's newer compiler must not fail).
``SAMEMAP_SANITIZE=address,undefined``
    Build with these sanitizers, with frame pointers and without optimisation
    that would blur the reports.
"""

import os
import sys
from glob import glob

import numpy
from setuptools import Extension, setup

compile_args = ["-std=c11", "-Wall", "-Wextra", "-fvisibility=hidden"]
link_args = []

if os.environ.get("SAMEMAP_WERROR") == "1":
    compile_args.append("-Werror")

sanitizers = os.environ.get("SAMEMAP_SANITIZE")
if sanitizers:
    flags = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    compile_args += [*flags, "-g", "-O1", "-fno-omit-frame-pointer"]
    link_args += flags

platform_sources = {
    True: ["src/maptable_linux.c", "src/pagemap_linux.c"],
    False: ["src/maptable_none.c", "src/pagemap_none.c"],
}
on_linux = sys.platform == "linux"
common = sorted(
    set(glob("src/*.c")) - set(platform_sources[True]) - set(platform_sources[False])
)

setup(
    ext_modules=[
        Extension(
            "samemap._core",
            sources=common + platform_sources[on_linux],
            depends=glob("src/*.h"),
            include_dirs=[numpy.get_include()],
            define_macros=[("_GNU_SOURCE", "1")],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
