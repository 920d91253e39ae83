"""The application: configurations, commands, comparisons, the proof of a resume. Everything below it works without it."""
