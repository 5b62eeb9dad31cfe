"""Property tests of the agent."""
