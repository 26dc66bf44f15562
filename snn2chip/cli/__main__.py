"""`python -m snn2chip.cli`, the same as `python -m snn2chip`."""

from snn2chip.__main__ import main

if __name__ == "__main__":
    main()
