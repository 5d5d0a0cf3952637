"""Tests of the command.

Clients that are cut off leave coroutines to the garbage collector, which wakes one that has ended already; trial blames that
on whichever test it comes upon then. Until its source is found, nothing is collected while these tests run.
"""

import gc

gc.disable()
