"""A small drawn world: contents x styles x colours x backgrounds x poses, rendered procedurally."""
