"""What stands in for the world around dropsign in demos, rehearsals and tests: an authority and a service."""
