#!/bin/bash
# Keep a part of the data outside the tree, for the run that follows on the same machine.
set -e
folder=${SNN2CHIP_GPU_KEPT:-/tmp/snn2chip-gpu}
mkdir -p "$folder"
cp "$1"/* "$folder"/
ls "$folder" | wc -l
