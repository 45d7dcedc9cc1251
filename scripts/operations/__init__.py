"""Operating a server: readiness, rollout, shadow traffic, inventory and checks."""
