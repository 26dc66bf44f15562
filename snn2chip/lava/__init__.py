"""Run networks in Lava, which lives in an environment of its own and talks by files.

Lava 0.10 needs numpy below 2 and declares Python 3.10 and torch 2.3: it cannot share an environment with this
package. So `setup` makes one per user, `run` starts the program deploy/lava/run_network.py in it with a netx
file and an .npz in and an .npz out, and nothing here imports Lava.

Two kinds: *light* (Python 3.10 to 3.12, no torch, about 470 MB) is what everything uses; *full* (Python 3.10
and lava-dl's own requirements, about 6 GB) is the reference it is compared with.

Environment variables: SNN2CHIP_LAVA_PYTHON names the interpreter to use (as it is if it imports Lava, else to
build the environment from), SNN2CHIP_CACHE the folder that holds environments.
"""

from snn2chip.lava.environment import Environment as Environment
from snn2chip.lava.environment import RegistryError as RegistryError
from snn2chip.lava.environment import find as find
from snn2chip.lava.environment import setup as setup
from snn2chip.lava.interpreters import PYTHON_VARIABLE as PYTHON_VARIABLE
from snn2chip.lava.interpreters import Candidate as Candidate
from snn2chip.lava.interpreters import NoPythonError as NoPythonError
from snn2chip.lava.interpreters import candidates as candidates
from snn2chip.lava.runner import neuron_reference as neuron_reference
from snn2chip.lava.runner import run as run
from snn2chip.lava.runner import run_chip_clock as run_chip_clock
from snn2chip.places import CACHE_VARIABLE as CACHE_VARIABLE
