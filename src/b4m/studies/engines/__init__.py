"""Engines: who does the jobs of a study or a library. One driver and one work list for all of them."""
