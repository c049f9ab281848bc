"""The eleven stages of a run, one module each; none imports another."""
