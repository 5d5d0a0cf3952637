"""The tests. Properties are tried for their truth, not for their speed: the machine may have other things to do."""

from hypothesis import HealthCheck, settings

settings.register_profile("bookd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bookd")
