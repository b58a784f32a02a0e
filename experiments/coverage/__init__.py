"""Do the intervals and tests of a comparison keep their word?"""
