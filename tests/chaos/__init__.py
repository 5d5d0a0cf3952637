"""Kills, cuts and starves a suite while clients write to it, and then proves that nothing was lost or doubled."""
