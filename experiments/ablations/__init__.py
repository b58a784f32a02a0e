"""Does a gain survive when one thing is changed? All ablations of one small study."""
