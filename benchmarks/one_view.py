"""What does one view cost alone, pickled here and loaded in another process?

Each message maps the file anew, as the reader lets go of every array at once: to
open, check, map and close the file is a floor that no side can do without. The way
through the pipe is not counted.
"""

from harness import (
    SIDES,
    Reader,
    Report,
    Table,
    Timings,
    cpu_seconds,
    folder,
    interleave,
    make_memmap,
    pool_dumps,
    reducers,
    run,
)


def benchmark(report: Report) -> None:
    tables = {name: reducers(name) for name in SIDES}
    with folder() as path, Reader() as reader:
        memmap = make_memmap(path / "data", (1000, 50))
        views = {"2-D strided": memmap[100:200, ::2], "all of it": memmap}

        for name, view in views.items():
            parts: dict[str, Timings] = {
                part: {s: [] for s in SIDES} for part in ("pickle", "load")
            }

            def there(
                side: str, table: Table, view: object = view, parts: dict = parts
            ) -> float:
                message: list[bytes] = []
                here = cpu_seconds(lambda: message.append(pool_dumps(view, table)))
                there = reader.load(message[0])
                parts["pickle"][side].append(here)
                parts["load"][side].append(there)
                return here + there

            measures = {s: lambda s=s, f=there: f(s, tables[s]) for s in SIDES}
            measures["the floor"] = lambda: reader.map(memmap.filename)
            rounds = report.rounds(2000, 200)
            asked = name == "2-D strided"
            report.add(
                f"one view ({name}), pickle + load",
                interleave(measures, rounds),
                at_least=2.2 if asked else None,
            )
            for part, timings in parts.items():
                counted = {s: times[1:] for s, times in timings.items()}
                report.add(f"one view ({name}), {part}", counted)


if __name__ == "__main__":
    run(__file__, __doc__, benchmark)
