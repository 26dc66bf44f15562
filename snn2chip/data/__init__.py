"""Data sets held in memory; the augmentation of their batches is in `snn2chip.data.augment`.

Nothing here loads torch before images are read: `doctor` asks only where they are.
"""

from snn2chip.data.dataset import NAMES as NAMES
from snn2chip.data.dataset import PUBLISHED as PUBLISHED
from snn2chip.data.dataset import ImageSet as ImageSet
from snn2chip.data.dataset import at_hand as at_hand
from snn2chip.data.dataset import available as available
from snn2chip.data.dataset import load as load
from snn2chip.data.dataset import parse_spec as parse_spec
from snn2chip.data.dataset import test_set as test_set
from snn2chip.data.files import cache_folder as cache_folder
