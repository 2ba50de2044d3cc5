"""An output that all workers fill: memory made by `samemap.zeros`.

An array in ordinary memory is each task's own, so what a task writes into it is lost
for its caller; stock joblib sends one above 1 MB read-only. `samemap.zeros` makes
memory that is one for all processes. It has no name, so there is nothing to remove.

Output::

    rows filled, numpy.zeros:    0 of 24
    rows filled, samemap.zeros: 24 of 24

    ..............::::::::::----------------------------::::::::::::::::::::
    ............:::::::------------------------=+*===--------:::::::::::::::
    ...........:::::-------------------------===++%+*==---------::::::::::::
    ..........:::--------------------------====++*@#++===----------:::::::::
    ........:::-------------------------=====++#@@@@@*++=====--------:::::::
    ........::---------------------====*+*++*%**#@@@#**+%++++*=--------:::::
    .......:------------------========++%@@#@@@@@@@@@@@@@##@@*+=--------::::
    ......:--------------===========+*@%@@@@@@@@@@@@@@@@@@@@*++==--------:::
    ......-----------===+*++++#++++++*%@@@@@@@@@@@@@@@@@@@@@@@*+=---------::
    .....:--------=====+++*%@%%@%#***#@@@@@@@@@@@@@@@@@@@@@@@@++=----------:
    .....-------=====++++*@@@@@@@@@@#@@@@@@@@@@@@@@@@@@@@@@@@@#==----------:
    .....====+++==++++#@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@+===----------:
    .....====+++==++++#@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@+===----------:
    .....-------=====++++*@@@@@@@@@@#@@@@@@@@@@@@@@@@@@@@@@@@@#==----------:
    .....:--------=====+++*%@%%@%#***#@@@@@@@@@@@@@@@@@@@@@@@@++=----------:
    ......-----------===+*++++#++++++*%@@@@@@@@@@@@@@@@@@@@@@@*+=---------::
    ......:--------------===========+*@%@@@@@@@@@@@@@@@@@@@@*++==--------:::
    .......:------------------========++%@@#@@@@@@@@@@@@@##@@*+=--------::::
    ........::---------------------====*+*++*%**#@@@#**+%++++*=--------:::::
    ........:::-------------------------=====++#@@@@@*++=====--------:::::::
    ..........:::--------------------------====++*@#++===----------:::::::::
    ...........:::::-------------------------===++%+*==---------::::::::::::
    ............:::::::------------------------=+*===--------:::::::::::::::
    ..............::::::::::----------------------------::::::::::::::::::::
"""

from typing import Any

import numpy as np
import samemap
from joblib import Parallel, delayed

Array = np.ndarray[Any, np.dtype[Any]]

HEIGHT, WIDTH = 24, 72
SHADES = " .:-=+*#%@"


def escape_times(output: Array, row: int) -> None:
    """Fill one row: how many rounds of z -> z*z + c until z is far away?"""
    y = 1.2 - 2.4 * row / (HEIGHT - 1)
    c = np.linspace(-2.2, 1, WIDTH) + 1j * y
    z = np.zeros_like(c)
    output[row] = 1
    for _ in range(40):
        near = np.abs(z) < 2
        z[near] = z[near] ** 2 + c[near]
        output[row] += near


def main() -> None:
    for name, zeros in (("numpy.zeros", np.zeros), ("samemap.zeros", samemap.zeros)):
        output = zeros((HEIGHT, WIDTH), int)
        Parallel(n_jobs=2)(delayed(escape_times)(output, i) for i in range(HEIGHT))
        filled = int(output.any(axis=1).sum())
        print(f"rows filled, {name + ':':<15}{filled:2d} of {HEIGHT}")

    print()
    shades = np.log(output) / np.log(output.max()) * (len(SHADES) - 1)
    for row in shades.astype(int):
        print("".join(SHADES[shade] for shade in row).rstrip())


if __name__ == "__main__":
    main()
