"""Every matplotlib figure: arrays in, Figure out; one palette, one style."""
