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
import sysconfig
from glob import glob

import numpy
from setuptools import Extension, setup

compile_args = ["-std=c11", "-Wall", "-Wextra", "-fvisibility=hidden"]
link_args = []
if sys.platform == "linux":
    # To pickle a view is to call some forty functions of CPython's.
    compile_args.append("-fno-plt")

if os.environ.get("SAMEMAP_WERROR") == "1":
    compile_args.append("-Werror")

sanitizers = os.environ.get("SAMEMAP_SANITIZE")
if sanitizers:
    flags = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-UNDEBUG"]
    compile_args += [*flags, "-g", "-O1", "-fno-omit-frame-pointer"]
    link_args += flags

# The seam to the operating system: `SAMEMAP_OS=none` builds the one that knows nothing.
system = os.environ.get("SAMEMAP_OS") or sys.platform
system = "linux" if system == "linux" else "none"
others = "_none.c" if system == "linux" else "_linux.c"
sources = [
    p for p in sorted(glob("src/**/*.c", recursive=True)) if not p.endswith(others)
]

# A CPython without GIL has no limited API (and setuptools refuses to build for it):
# there the wheel is for this one version.
limited_api = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    ext_modules=[
        Extension(
            "samemap._core",
            sources=sources,
            depends=glob("src/**/*.h", recursive=True),
            include_dirs=["src", numpy.get_include()],
            define_macros=[("_GNU_SOURCE", "1")],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
            py_limited_api=limited_api,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if limited_api else {},
)
