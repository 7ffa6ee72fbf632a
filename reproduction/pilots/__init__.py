"""Look for the setting of the reproduction: what none of its figures needs."""
