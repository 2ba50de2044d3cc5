"""Programs in documents: their blocks of Python, and what is shown below each.

A block that begins with "```python" is part of the page's program, which is all such
blocks in their order. What it prints stands in the next block, a "```text"; a block
that has none prints nothing. "<!-- not run: REASON -->" on the line before leaves one
out.
"""

import ast
import os
import re
import subprocess
import sys
import tempfile
from typing import NamedTuple

FENCE = re.compile(
    r"(?P<left_out><!-- not run: [^>]+ -->\n)?"
    r"^```(?P<kind>[^\n]*)\n(?P<content>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
END = "---- end of a block ----"


class Block(NamedTuple):
    """Source, and the output that is shown below it."""

    source: str
    output: str


def blocks(text):
    """Return the blocks of a page that are run."""
    found, before = [], None
    for fence in FENCE.finditer(text):
        kind, content = fence["kind"], fence["content"]
        if kind == "text" and before is not None:
            found[-1] = Block(before, content)
        runs = kind == "python" and fence["left_out"] is None
        before = content if runs else None
        if runs:
            found.append(Block(content, ""))
    return found


def program(page):
    """Return the source of all blocks, which marks the end of each in its output.

    Not where a started process imports it again.
    """
    mark = f"\nif __name__ == '__main__':\n    print({END!r}, flush=True)\n"
    return "".join(block.source + mark for block in page)


def run_program(source, folder):
    """Run it as a file in a folder; return what it prints."""
    path = folder / "program.py"
    path.write_text(source)
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", path],
        cwd=folder,
        # Ray has sockets in its folder, whose paths may have 107 bytes.
        env={
            **os.environ,
            "TMPDIR": str(folder),
            "RAY_TMPDIR": tempfile.gettempdir(),
        },
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    return done.stdout


def imported(source):
    """Return the packages that a program imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return sorted({name.partition(".")[0] for name in names})


def without_what_varies(text):
    """Leave out the folder, the numbers of the file, the message's length, times."""
    text = re.sub(r"(?m)^(file +).*/", r"\1", text)
    text = re.sub(r"(?m)^(identity +).*", r"\1", text)
    text = re.sub(r"(?m)^(message +)\d+", r"\1", text)
    return re.sub(r"\b[\d.]+ (µs|ms|s)\b", r"\1", text)
