"""A shop, a disaster, and the way back."""
