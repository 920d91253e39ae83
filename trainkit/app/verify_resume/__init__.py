"""`trainkit verify-resume`: interrupt a run at many points, resume it, and compare every bit with the uninterrupted run."""
