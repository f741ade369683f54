"""OpenVINO: facts, lowering, sessions, profile."""
