"""Hypothesis profiles: `dev`, `ci` and `soak`, chosen by HYPOTHESIS_PROFILE."""

import os
import signal

from hypothesis import settings

# A machine that runs VMs is noisy, so no single example has a deadline.
settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile(
    "ci", max_examples=500, deadline=None, derandomize=True, print_blob=True
)
settings.register_profile("soak", max_examples=2_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

# What runs the tests may ignore these (nohup, a shell's background job), and programs that the
# tests start would inherit that and sleep through the interrupts that they are sent.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
