"""Text to Instructions to BuildPlan. Pure: no file is opened and no clock is read here."""
