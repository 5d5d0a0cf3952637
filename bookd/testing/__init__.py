"""Fakes for tests of bookd, and of what others build on the bridge. They keep the promises of the real parts."""
