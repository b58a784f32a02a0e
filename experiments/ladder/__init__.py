"""Do ratios and losses follow laws over sizes and horizons that a ladder finds?"""
