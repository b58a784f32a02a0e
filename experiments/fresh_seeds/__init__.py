"""Do the claims of the demo hold on fresh seeds, and where did its search end?"""
