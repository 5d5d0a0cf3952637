"""The users: who they are, their passwords, their sessions, and the keys that sign their access tokens."""
