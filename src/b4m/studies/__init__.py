"""Tables of the paper: rows x pairs x seeds."""
