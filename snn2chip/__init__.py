"""snn2chip: from a trained spiking network to Loihi's integers and Lava, spike for spike."""

__version__ = "0.1.0"
