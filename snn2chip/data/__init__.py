"""Data sets held in memory, and the augmentation of their batches."""

from snn2chip.data.augment import Augment as Augment
from snn2chip.data.augment import AugmentSpec as AugmentSpec
from snn2chip.data.augment import cutout as cutout
from snn2chip.data.augment import flip_horizontally as flip_horizontally
from snn2chip.data.augment import random_crop as random_crop
from snn2chip.data.dataset import NAMES as NAMES
from snn2chip.data.dataset import ImageSet as ImageSet
from snn2chip.data.dataset import at_hand as at_hand
from snn2chip.data.dataset import available as available
from snn2chip.data.dataset import load as load
from snn2chip.data.dataset import parse_spec as parse_spec
from snn2chip.data.dataset import test_set as test_set
from snn2chip.data.files import cache_folder as cache_folder
