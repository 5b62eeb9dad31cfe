"""The agent: what runs inside the utility VM."""
