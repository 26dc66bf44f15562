"""Other people's simulators of chips, each in an environment of its own, which talk by files.

None can share an environment with this package, so nothing here imports one. `setup` makes an environment once per
user from pinned requirements, a program under deploy/ is run in it with files in and files out, and the same code does
that for all of them:

    kinds         what is pinned for one environment, and which Pythons carry it
    interpreters  find such a Python
    environment   is it there, what does it hold, make it
    processes     how programs of other interpreters are started and ended
    programs      run a program of deploy/ in its environment
    lava          Loihi, by Intel's Lava
    akida         Akida, by BrainChip's package

A third one is a module like `lava`, and a folder under deploy/ whose programs answer ``--check`` as those do.
"""
