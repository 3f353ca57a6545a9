"""Published runs, predicted: what was measured, what the model says, and how far it is off."""
