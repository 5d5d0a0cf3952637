"""Tests of what bookd ships for tests."""
