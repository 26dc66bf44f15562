"""Does a network fit a chip: the table that the chip's compiler would print, from the numbers of a netx file alone.

    demand    what each layer asks for, read from a chain or from any netx file
    words     how synapses lie in a core's memory
    compiler  one layer cut into cores as the compiler of lava-loihi cuts it
    search    the same with the fewest cores that the limits allow
    table     the whole network: cores, chips, what binds, what does not fit and what would

Fitted to tables that the closed compiler printed; docs/fit.md holds every prediction beside its print.
"""
